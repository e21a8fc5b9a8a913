"""PyTorch in and out: rule tables between layouts, reading and writing of files, import and export with proof.

Imports nothing heavy, so that the command line can list what there is.
"""

from typing import NamedTuple


class ExportFormat(NamedTuple):
    """What an export format is, the libraries it needs, their extra, and whether its files hold a tokenizer."""

    meaning: str
    libraries: tuple[str, ...]
    extra: str
    tokenizer: bool


EXPORT_FORMATS = {
    "brivl": ExportFormat("brivl.pth in the layout of the official checkpoints", ("torch",), "torch", False),
    "torch": ExportFormat(
        "safetensors and one PyTorch file that needs nothing of ours", ("torch", "safetensors"), "torch", True
    ),
    "onnx": ExportFormat(
        "both towers as ONNX graphs with a dynamic batch",
        ("torch", "onnx", "onnxscript", "onnxruntime"),
        "onnx",
        True,
    ),
    "huggingface": ExportFormat(
        "a folder for AutoModel and AutoProcessor, and a BertModel", ("torch", "transformers"), "torch", True
    ),
}
"""The formats of `wenlan export`; module `export_<name>` has the writer."""

UNUSED_LAYERS = "unused_layers.safetensors"
"""Beside an imported checkpoint: layers of the official file that BriVL does not compute with, for export to return."""

IMPORT_FORMATS: dict[str, str] = {
    "brivl": "an official checkpoint, or the whole official model with its queues",
    "bert": "the text backbone: BERT, RoBERTa or XLM-R of Hugging Face",
    "efficientnet": "the image backbone: EfficientNet of timm or Hugging Face",
}
"""What each format is; `importing.FORMATS` has its reader."""
