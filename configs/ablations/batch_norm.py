"""Whose statistics batch normalisation takes: groups of images, the whole batch, or none of them.

Tested    "BN fixed or not" is among the ablations that the papers are recalled to have [R]; the paper's number is not
          known here. The reference took statistics of each device, 16 images a GPU [X].
Measured  text to image recall@1 of 1,000, mean of three seeds: groups of 4 13.2, groups of 16 34.9, the whole batch
          of 64 38.7, fixed 16.3%. See RESULTS.md.

"Fixed" keeps the statistics of the start for ever. In the papers those come from ImageNet; here they are a mean of 0
and a variance of 1, so that the row has no normalisation, only scales and offsets that are trained.
"""

from wenlan_jax.sweep.table import Row, Table


def get_table() -> Table:
    """Statistics over groups of several sizes, and none."""
    return Table(
        title="Statistics of batch normalisation",
        base="configs/ablations/base.py",
        rows=(
            Row("groups of 4", {"model.image.batch_norm.group_size": 4}),
            Row("groups of 16"),
            Row("the whole batch of 64", {"model.image.batch_norm.mode": "batch"}),
            Row("fixed", {"model.image.batch_norm.mode": "frozen"}),
        ),
        seeds=(0, 1, 2),
        baseline="groups of 16",
        metrics=(
            "retrieval/test/text_to_image/recall_at_1",
            "retrieval/test/image_to_text/recall_at_1",
            "retrieval/test/mean_recall",
        ),
    )
