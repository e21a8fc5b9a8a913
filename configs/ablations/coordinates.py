"""How the samples of a region are placed on the map: as the released code does, or as meant.

Tested    The released code builds its grid for align_corners=True and samples with align_corners=False [C]; of the 592
          samples of its 37 regions 47 fall outside the map [M]. What that costs: the paper's number is not known here.
Measured  text to image recall@1 of 1,000, mean of three seeds: grid, corrected 34.6, official 23.0; boxes, corrected
          35.2, official 38.6%. See RESULTS.md.

The shift is a part of a cell of the map, and the map here is of 4 x 4 cells where that of the released model is of 15
x 15: a cell is more of the image here.
"""

from wenlan_jax.sweep.table import Row, Table


def get_table() -> Table:
    """Both ways to sample, for a grid and for boxes."""
    return Table(
        title="Coordinates of regions",
        base="configs/ablations/base.py",
        rows=(
            Row("grid, corrected"),
            Row("grid, official", {"model.image.regions.coordinates": "official"}),
            Row("boxes, corrected", {"model.image.regions.kind": "boxes", "model.image.regions.boxes": 4}),
            Row(
                "boxes, official",
                {
                    "model.image.regions.kind": "boxes",
                    "model.image.regions.boxes": 4,
                    "model.image.regions.coordinates": "official",
                },
            ),
        ),
        seeds=(0, 1, 2),
        baseline="grid, corrected",
        metrics=(
            "retrieval/test/text_to_image/recall_at_1",
            "retrieval/test/image_to_text/recall_at_1",
            "retrieval/test/mean_recall",
        ),
    )
