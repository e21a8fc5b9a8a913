"""Size of the banks, from none to 64 batches.

Tested    More negatives from earlier batches make a better model. The queue is among the ablations that the papers are
          recalled to have [R]; the paper's number is not known here. Sizes used: 9,600 in the released code [C];
          recalled and not verified, 16,384 in 1.0 and 13,440 in 2.0 [R].
Measured  text to image recall@1 of 1,000, mean of three seeds: no bank 34.0, K = 64 35.0, 256 35.8, 1024 34.6, 4096
          31.3%. Not supported at a batch of 64; see RESULTS.md.

A bank cannot have size 0. "No bank" has banks that never count, so that its negatives are the momentum keys of its
own batch: the row differs from the others in nothing but the negatives. At 64 a step, K = 4096 reaches back 64 steps,
two thirds of the training set; negatives of the query's own image are masked in every row.
"""

from wenlan_jax.sweep.table import Row, Table


def get_table() -> Table:
    """Sizes around that of the base."""
    return Table(
        title="Size of the banks",
        base="configs/ablations/base.py",
        rows=(
            Row("no bank", {"contrast.bank_from_step": 240}),
            Row("K = 64", {"contrast.bank_size": 64}),
            Row("K = 256", {"contrast.bank_size": 256}),
            Row("K = 1024"),
            Row("K = 4096", {"contrast.bank_size": 4096}),
        ),
        seeds=(0, 1, 2),
        baseline="K = 1024",
        metrics=(
            "retrieval/test/text_to_image/recall_at_1",
            "retrieval/test/image_to_text/recall_at_1",
            "retrieval/test/mean_recall",
        ),
    )
