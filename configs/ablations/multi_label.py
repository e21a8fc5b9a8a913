"""Entries of the bank that are among the top k of both key-key similarities as further positives (`multi_label`).

Tested    Present but off in the released code [C]. A question of ours; the paper's number is not known here.
Measured  text to image recall@1 of 1,000, mean of three seeds: off 34.9, top 1 34.2, top 5 31.2, top 10 26.2%. See
          RESULTS.md.
"""

from wenlan_jax.sweep.table import Row, Table


def get_table() -> Table:
    """How many mutual neighbours count as positives."""
    return Table(
        title="Entries of the bank as further positives",
        base="configs/ablations/base.py",
        rows=(
            Row("off"),
            Row("top 1", {"contrast.multi_label_top_k": 1}),
            Row("top 5", {"contrast.multi_label_top_k": 5}),
            Row("top 10", {"contrast.multi_label_top_k": 10}),
        ),
        seeds=(0, 1, 2),
        baseline="off",
        metrics=(
            "retrieval/test/text_to_image/recall_at_1",
            "retrieval/test/image_to_text/recall_at_1",
            "retrieval/test/mean_recall",
        ),
    )
