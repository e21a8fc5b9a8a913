"""Size of the text encoder, in width and in layers.

Tested    "Text encoder base or large" is among the ablations that the papers are recalled to have [R]; the paper's
          number is not known here. Base: 12 layers, 768 wide; large: 24 layers, 1,024 wide [C].
Measured  text to image recall@1 of 1,000, mean of three seeds: 1 layer, 64 wide 33.9, 128 wide 34.9; 2 layers, 128
          wide 33.8, 256 wide 26.6; 4 layers, 128 wide 29.6%. See RESULTS.md.

All start from nothing here, where the papers' encoders were pretrained on text. The block of one layer above BERT is
as wide as BERT and grows with it.
"""

from wenlan_jax.sweep.table import Row, Table


def get_table() -> Table:
    """Widths and depths around that of the base."""
    return Table(
        title="Size of the text encoder",
        base="configs/ablations/base.py",
        rows=(
            Row("1 layer, 64 wide", {"model.text.bert.width": 64, "model.text.bert.feed_forward": 128}),
            Row("1 layer, 128 wide"),
            Row("2 layers, 128 wide", {"model.text.bert.layers": 2}),
            Row("4 layers, 128 wide", {"model.text.bert.layers": 4}),
            Row(
                "2 layers, 256 wide",
                {
                    "model.text.bert.width": 256,
                    "model.text.bert.layers": 2,
                    "model.text.bert.feed_forward": 512,
                },
            ),
        ),
        seeds=(0, 1, 2),
        baseline="1 layer, 128 wide",
        metrics=(
            "retrieval/test/text_to_image/recall_at_1",
            "retrieval/test/image_to_text/recall_at_1",
            "retrieval/test/mean_recall",
        ),
    )
