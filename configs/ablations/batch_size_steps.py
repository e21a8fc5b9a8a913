"""Batch size at a fixed bank, for BriVL and for CLIP, at equal steps.

Tested    The same statement as `batch_size.py`: with the queue a small batch reaches what CLIP needs a large one for.
          The paper's number is not in our notes.
Measured  Not yet run.

At equal pairs a larger batch has fewer steps, and a short run lacks steps before it lacks negatives. Here every row has
the 240 steps of the base, so that rows differ in the negatives of a step and in the pairs seen, which grow with the
batch: 3,840, 15,360 and 61,440. The learning rate is chosen as there: half of the base's for a batch of 16.
"""

from typing import Any

from wenlan_jax.sweep.table import Row, Table

BATCHES = (16, 64, 256)
BASE_BATCH, BASE_LEARNING_RATE = 64, 2e-3
"""Those of base.py."""


def of_batch(batch: int) -> dict[str, Any]:
    """The base at another batch size, for as many steps."""
    rate = BASE_LEARNING_RATE * min(batch / BASE_BATCH, 1.0) ** 0.5
    return {"train.batch_size": batch, "optimizer.learning_rate": rate}


def get_table() -> Table:
    """Both tasks at three batch sizes."""
    brivl = tuple(Row(f"BriVL, batch {batch}", of_batch(batch)) for batch in BATCHES)
    clip = tuple(Row(f"CLIP, batch {batch}", {"task": "clip", **of_batch(batch)}) for batch in BATCHES)
    return Table(
        title="Batch size at a fixed bank, at equal steps",
        base="configs/ablations/base.py",
        rows=(*brivl, *clip),
        seeds=(0, 1, 2),
        baseline="CLIP, batch 256",
        metrics=(
            "retrieval/test/text_to_image/recall_at_1",
            "retrieval/test/image_to_text/recall_at_1",
            "retrieval/test/mean_recall",
        ),
    )
