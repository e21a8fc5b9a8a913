"""PyTorch in and out: rule tables between layouts, reading and writing of files, import and export with proof.

Imports nothing, so that the command line can list what there is.
"""

EXPORT_FORMATS: dict[str, tuple[str, tuple[str, ...]]] = {
    "brivl": ("brivl.pth in the layout of the official checkpoints", ("torch",)),
    "torch": ("safetensors and one PyTorch file that needs nothing of ours", ("torch", "safetensors")),
    "onnx": ("both towers as ONNX graphs with a dynamic batch", ("torch", "onnx", "onnxscript", "onnxruntime")),
    "huggingface": (
        "a folder for AutoModel and AutoProcessor, and a BertModel",
        ("torch", "transformers"),
    ),
}
"""What each format is, and the libraries it needs; module `export_<name>` has its writer."""

UNUSED_LAYERS = "unused_layers.safetensors"
"""Beside an imported checkpoint: layers of the official file that BriVL does not compute with, for export to return."""

IMPORT_FORMATS: dict[str, str] = {
    "brivl": "an official checkpoint, or the whole official model with its queues",
    "bert": "the text backbone: BERT, RoBERTa or XLM-R of Hugging Face",
    "efficientnet": "the image backbone: EfficientNet of timm or Hugging Face",
}
"""What each format is; `importing.FORMATS` has its reader."""
