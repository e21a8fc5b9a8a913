"""Weak captions, descriptive ones, and their mixture.

Tested    WenLan trains on pairs that correlate weakly: search results, news, encyclopaedia, Weibo, WeChat [C] [S], and
          no source that was read says how much that costs or gains against descriptions. The paper's number is not
          known here.
Measured  text to image recall@1 of 1,000, mean of three seeds, asked with descriptive captions: descriptive 34.6, half
          weak 7.4, nine tenths weak 1.4, weak .1%. See RESULTS.md.

Every image of the scenes has both kinds of text. A weak one names a thing at best ("My favourite: the star.") and
often nothing ("The waves never get tired."); a descriptive one names all that is there. All rows see as many pairs
and are asked with descriptive captions, so that a row trained on weak ones is also asked what it was not taught to
read. The vocabulary is trained on the texts of the row, as in any run without a given one, and differs between rows,
too.
"""

from wenlan_jax.sweep.table import Row, Table

BOTH = ("weak", "descriptive")


def get_table() -> Table:
    """From descriptive captions alone to weak ones alone."""
    return Table(
        title="Weak and descriptive captions",
        base="configs/ablations/base.py",
        rows=(
            Row("descriptive"),
            Row("half weak", {"data.kinds": BOTH, "data.kind_choice": "weighted", "data.kind_weights": (0.5, 0.5)}),
            Row(
                "nine tenths weak",
                {"data.kinds": BOTH, "data.kind_choice": "weighted", "data.kind_weights": (0.9, 0.1)},
            ),
            Row("weak", {"data.kinds": ("weak",)}),
        ),
        seeds=(0, 1, 2),
        baseline="descriptive",
        metrics=(
            "retrieval/test/text_to_image/recall_at_1",
            "retrieval/test/image_to_text/recall_at_1",
            "retrieval/test/mean_recall",
        ),
    )
