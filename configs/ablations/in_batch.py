"""Which keys are negatives: those in the bank, the others of the batch, or both.

Tested    The released code has negatives from the queue only [C]; another publication reads 2.0 so that those of the
          batch count, too [X]. The paper's number is not known here.
Measured  text to image recall@1 of 1,000, mean of three seeds: bank and batch 17.0, bank alone 13.3, batch alone 34.0,
          bank and batch with the bank from step 80 on 34.6%. See RESULTS.md.

Without negatives of the batch there are none before the bank counts, so that "bank alone" must have its bank from the
start. The baseline has so, too; the first row is the base of all tables, whose bank counts from step 80 on.
"""

from wenlan_jax.sweep.table import Row, Table


def get_table() -> Table:
    """Negatives from the bank, from the batch, and from both."""
    return Table(
        title="In-batch negatives",
        base="configs/ablations/base.py",
        rows=(
            Row("bank and batch, bank from step 80"),
            Row("bank and batch", {"contrast.bank_from_step": 0}),
            Row("bank alone", {"contrast.bank_from_step": 0, "contrast.in_batch_negatives": False}),
            Row("batch alone", {"contrast.bank_from_step": 240}),
        ),
        seeds=(0, 1, 2),
        baseline="bank and batch",
        metrics=(
            "retrieval/test/text_to_image/recall_at_1",
            "retrieval/test/image_to_text/recall_at_1",
            "retrieval/test/mean_recall",
        ),
    )
