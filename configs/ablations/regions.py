"""Which parts of an image become tokens: the whole, cells of a grid, cells of several grids, or boxes.

Tested    1.0 has detector boxes and 2.0 a grid [S], each with the whole image as one more region [C]; the video
          descendant has grids of two sizes [C]. Region kind is among the ablations that the papers are recalled to have
          [R]; the paper's number is not known here.
Measured  text to image recall@1 of 1,000, mean of three seeds: whole image 30.3, grid 2x2 36.5, 4x4 34.6, both 34.9,
          boxes 35.2%. See RESULTS.md.

Every row has the whole image, too; alone it is the only cell of a grid of 1 x 1. The boxes are those that the scenes
were drawn with, one or two an image: what an unerring detector would find, and more than a real one can give.
"""

from wenlan_jax.sweep.table import Row, Table


def get_table() -> Table:
    """The whole image, grids, several grids, and boxes."""
    return Table(
        title="Kind of regions",
        base="configs/ablations/base.py",
        rows=(
            Row("whole image", {"model.image.regions.grid": (1,), "model.image.regions.whole_image": False}),
            Row("grid 2x2", {"model.image.regions.grid": (2,)}),
            Row("grid 4x4"),
            Row("grids 2x2 and 4x4", {"model.image.regions.grid": (2, 4)}),
            Row("boxes", {"model.image.regions.kind": "boxes", "model.image.regions.boxes": 4}),
        ),
        seeds=(0, 1, 2),
        baseline="grid 4x4",
        metrics=(
            "retrieval/test/text_to_image/recall_at_1",
            "retrieval/test/image_to_text/recall_at_1",
            "retrieval/test/mean_recall",
        ),
    )
