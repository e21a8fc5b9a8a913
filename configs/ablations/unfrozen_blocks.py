"""How much of the image backbone is trained, from all of it to nothing.

Tested    The released model keeps the stem, blocks 0 to 2 and the head of its pretrained backbone frozen [C]. The
          number of unfrozen blocks is among the ablations that the papers are recalled to have [R]; the paper's number
          is not known here.
Measured  text to image recall@1 of 1,000, mean of three seeds: all trained 34.9, stem frozen 27.8, and block 0 28.7,
          and block 1 19.7, all of the backbone frozen 10.9%. See RESULTS.md.

**This table cannot test what the paper tests.** The papers freeze weights that ImageNet pretraining gave; here they
are frozen as they were drawn, as no pretrained backbone of this size exists. It says how much of the backbone must
learn when nothing was learnt before. With real weights: `wenlan import`, then `init_from` and the patterns of
`model.freeze`.
"""

from wenlan_jax.sweep.table import Row, Table


def get_table() -> Table:
    """From everything trained to a backbone that is not."""
    return Table(
        title="Unfrozen blocks of the image backbone",
        base="configs/ablations/base.py",
        rows=(
            Row("all trained"),
            Row("stem frozen", {"model.freeze": (r"image/backbone/(conv_stem|bn1)/",), "model.random_frozen": True}),
            Row(
                "stem and block 0 frozen",
                {"model.freeze": (r"image/backbone/(conv_stem|bn1|blocks_0_0)/",), "model.random_frozen": True},
            ),
            Row(
                "stem and blocks 0 and 1 frozen",
                {"model.freeze": (r"image/backbone/(conv_stem|bn1|blocks_[01]_0)/",), "model.random_frozen": True},
            ),
            Row("all of the backbone frozen", {"model.freeze": (r"image/backbone/",), "model.random_frozen": True}),
        ),
        seeds=(0, 1, 2),
        baseline="all trained",
        metrics=(
            "retrieval/test/text_to_image/recall_at_1",
            "retrieval/test/image_to_text/recall_at_1",
            "retrieval/test/mean_recall",
        ),
    )
