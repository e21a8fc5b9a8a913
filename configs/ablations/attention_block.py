"""The Transformer block over the tokens of each tower: its number of layers, none to two.

Tested    Each tower of BriVL ends in four such layers [C]. The block is among the ablations that the papers are
          recalled to have [R]; the paper's number is not known here.
Measured  text to image recall@1 of 1,000, mean of three seeds: none 11.2, image tower alone 16.3, text tower alone
          25.9, one layer in both 34.9, two in both 24.5%. See RESULTS.md.

Without it an embedding is the mean of the tokens, projected. The text tower has one layer of BERT below it in every
row, the image tower nothing that lets regions see each other.
"""

from wenlan_jax.sweep.table import Row, Table


def get_table() -> Table:
    """Layers of the block in both towers, and in one."""
    return Table(
        title="Self-attention block",
        base="configs/ablations/base.py",
        rows=(
            Row("none", {"model.image.encoder.layers": 0, "model.text.encoder.layers": 0}),
            Row("image tower alone", {"model.text.encoder.layers": 0}),
            Row("text tower alone", {"model.image.encoder.layers": 0}),
            Row("one layer in both"),
            Row("two layers in both", {"model.image.encoder.layers": 2, "model.text.encoder.layers": 2}),
        ),
        seeds=(0, 1, 2),
        baseline="one layer in both",
        metrics=(
            "retrieval/test/text_to_image/recall_at_1",
            "retrieval/test/image_to_text/recall_at_1",
            "retrieval/test/mean_recall",
        ),
    )
