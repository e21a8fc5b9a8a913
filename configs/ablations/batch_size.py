"""Batch size at a fixed bank, for BriVL and for CLIP, at equal pairs.

Tested    The papers' reason for the queue, as we read them: with it a small batch reaches what CLIP needs a large one
          for. Queue and batch size are among the ablations that the papers are recalled to have [R]; the paper's number
          is not known here. Batches used: 2,048 with 16 a GPU in 1.0 [X]; recalled and not verified, 2,688 in 2.0 [R].
Measured  text to image recall@1 of 1,000, mean of three seeds, at batches of 16, 32, 64, 128, 256: BriVL 45.6, 42.7,
          34.6, 15.8, 4.2%; CLIP 16.7, 27.6, 24.5, 11.8, 3.2%; BriVL of 16 without a bank 34.5%. See RESULTS.md.

Every row sees the 15,360 pairs of the base, so that a larger batch has fewer steps; `batch_size_steps.py` holds the
steps equal instead. What is counted in steps is kept equal in pairs: warm-up, the step from which the bank counts,
and the evaluations of the curves. The bank keeps K = 1024 whatever the batch, so that at 16 a step its oldest key is
64 steps old and at 256 four. CLIP's temperature is BriVL's, fixed at .07: `clip.py` has it learnable.

The learning rate goes with the root of the batch up to 64, and is that of the base from there on, in both tasks
alike. So it was chosen on `validation`, by one run each of CLIP: with a batch of 16 recall@1 of 256 was 32.4% at 1e-3
and 23.8% at 2e-3; with 256 it was 14.5% at 2e-3 and 2.0% at 4e-3.

One row more, "BriVL, batch 16, no bank", has momentum keys of its own batch and no others, as "no bank" of `queue.py`:
what is between it and "BriVL, batch 16" is the bank's doing, what is between it and CLIP that of the momentum keys.
"""

from pathlib import Path

from wenlan_jax import config as configs
from wenlan_jax.sweep.batch_size import resized
from wenlan_jax.sweep.table import Row, Table

BATCHES = (16, 32, 64, 128, 256)


def get_table() -> Table:
    """Both tasks at five batch sizes, and the smallest without a bank."""
    base = configs.load(Path(__file__).with_name("base.py"))
    pairs = base.train.steps * base.train.batch_size
    sizes = {batch: resized(base, batch, pairs) for batch in BATCHES}
    brivl = tuple(Row(f"BriVL, batch {batch}", size) for batch, size in sizes.items())
    no_bank = Row("BriVL, batch 16, no bank", {**sizes[16], "contrast.bank_from_step": sizes[16]["train.steps"]})
    clip = tuple(Row(f"CLIP, batch {batch}", {"task": "clip", **size}) for batch, size in sizes.items())
    return Table(
        title="Batch size at a fixed bank, at equal pairs",
        base="configs/ablations/base.py",
        rows=(*brivl, no_bank, *clip),
        seeds=(0, 1, 2),
        baseline="CLIP, batch 256",
        metrics=(
            "retrieval/test/text_to_image/recall_at_1",
            "retrieval/test/image_to_text/recall_at_1",
            "retrieval/test/mean_recall",
        ),
    )
