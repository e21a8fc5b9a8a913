"""Export of both towers as ONNX graphs with a dynamic batch, checked with onnxruntime before anything else runs them.

Inputs and outputs have the names that Hugging Face's exports of such models use. PyTorch's exporter sees the modules
of `torch_modules.py`, so a graph computes what those do.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wenlan_jax import __version__
from wenlan_jax.convert import example, image_modules, model_card, parity
from wenlan_jax.convert.architecture import image_settings
from wenlan_jax.convert.exported_model import ExportedModel, ExportError
from wenlan_jax.convert.exporting import Runner
from wenlan_jax.tasks import experiment

if TYPE_CHECKING:
    import torch

OPSET = 20
"""The first operator set with GELU; onnxruntime has it since 1.17."""

LARGEST_FILE = 2_000_000_000
"""Bytes of weights kept in the graph's own file, which protobuf limits to 2 GiB; more go into a second one."""

IMAGES = "wenlan_images.py"

CHECKED_BATCHES = (1, 3)
"""Batch sizes compared with PyTorch, besides that of the parity batch: a graph must not remember the size it was
traced with, which is another one."""

TRACED = {"batch": 2, "boxes": 5}
"""Sizes of dynamic axes while tracing. Not 0 or 1: PyTorch takes these for constants."""

_CARD = """\
# WenLan (BriVL) towers for onnxruntime, checkpoint {step}

Two graphs that embed images and texts as unit vectors of {embedding} dimensions; their product is the similarity.
Exported by wenlan_jax {version} (operator set {opset}); `parity.json` says how far these files are from the JAX towers.

| file | input or output | shape | type |
|---|---|---|---|
{rows}

Axes given by name may have any size{longest}. Keep a `.onnx.data` file, where there is one, beside its graph.

- `pixel_values`: RGB, the whole image resized to {side} x {side} without cropping, scaled to [0, 1], then
  (x - {mean}) / {std}, by channel
{regions}- `input_ids`: [CLS], word pieces of `{tokenizer}`, [SEP], padding (id {pad}); {length} in all,
  to which longer texts were cut in training
- `attention_mask`: 1 for all but padding. {padding}

`pip install -r {requirements}`, then, as in `{example_file}`,

```python
{example}```

`wenlan_images.py` and `wenlan_text.py` read image files and texts as the training did.

"""

_REGIONS = """\
- `boxes`: (x1, y1, x2, y2) as fractions of the image's sides; `box_mask`: 1 for boxes, 0 for padding
"""

_ANY_LENGTH = "Padding does not change an embedding."
_FIXED_LENGTH = "Pad to the full length: as in the released BriVL code, the text backbone sees padding."

Feeds = dict[str, np.ndarray]
Shape = tuple[str | int, ...]


@dataclasses.dataclass(frozen=True)
class Graph:
    """The file of one tower.

    Attributes:
        file: its name.
        tower: its name in the PyTorch module.
        inputs: names and shapes, dynamic axes by name.
        output: the name of the embeddings.
    """

    file: str
    tower: str
    inputs: dict[str, Shape]
    output: str


def write(model: ExportedModel, folder: Path) -> Runner:
    """Writes both graphs, the tokenizer, a card and an example.

    The weights of a float16 export are stored in half precision; the graph widens them and computes in float32.

    Args:
        model: what is exported.
        folder: where it goes.

    Returns:
        What runs the graphs with onnxruntime on the CPU.

    Raises:
        ExportError: if a graph is not valid, or differs from the PyTorch module on a batch of another size.
    """
    import onnx

    module = torch_module(model)
    for graph in graphs(model.config):
        path, tower = folder / graph.file, module.get_submodule(graph.tower)
        save(trace(tower, graph, model), path)
        try:
            onnx.checker.check_model(str(path), full_check=True)
        except onnx.checker.ValidationError as error:
            raise ExportError(f"{graph.file}: not a valid ONNX model ({error})") from error
        check_batches(tower, graph, path, model.config)
    (folder / "training_config.json").write_text(experiment.to_json(model.config) + "\n")
    write_inputs(model, folder)
    (folder / "README.md").write_text(card(model), encoding="utf-8")
    example.write(model, "onnx", folder)
    return lambda batch: run(folder, model.config, batch)


def write_inputs(model: ExportedModel, folder: Path) -> None:
    """Writes what reads image files and texts: code, settings and the tokenizer's file."""
    from wenlan_jax.convert import export_torch

    export_torch.write_tokenizer(model, folder)
    shutil.copyfile(image_modules.__file__, folder / IMAGES)
    settings = json.dumps(image_settings(model.config), indent=1)
    (folder / image_modules.SETTINGS).write_text(settings + "\n")


def graphs(config: experiment.Config) -> tuple[Graph, Graph]:
    """Declares the graphs of the image and the text tower.

    Texts have a dynamic length only where the backbone has an attention mask; else embeddings depend on padding, and
    are those of the training only at the length of the training.

    Args:
        config: the configuration.

    Returns:
        Both graphs.
    """
    side, bert, regions = config.data.image_size, config.model.text.bert, config.model.image.regions
    images: dict[str, Shape] = {"pixel_values": ("batch", 3, side, side)}
    if regions.kind == "boxes":
        images |= {"boxes": ("batch", "boxes", 4), "box_mask": ("batch", "boxes")}
    texts: Shape = ("batch", "length" if bert.attention_mask else config.data.text_length)
    return (
        Graph("image_tower.onnx", "imgencoder", images, "image_embeds"),
        Graph("text_tower.onnx", "textencoder", {"input_ids": texts, "attention_mask": texts}, "text_embeds"),
    )


def torch_module(model: ExportedModel) -> torch.nn.Module:
    """Builds the PyTorch module with the weights in the precision of the export, in evaluation mode; float32."""
    from wenlan_jax.convert import export_torch, run_torch
    from wenlan_jax.convert.architecture import architecture_of

    module: torch.nn.Module = run_torch.module_with(architecture_of(model.config), export_torch.query_state(model))
    return module


def trace(tower: torch.nn.Module, graph: Graph, model: ExportedModel) -> Any:
    """Traces a tower.

    Args:
        tower: the PyTorch module.
        graph: its declaration.
        model: what is exported.

    Returns:
        An optimised `onnx_ir.Model`, without the tracer's notes on the source files of this machine.
    """
    import torch

    sizes = {**TRACED, "length": model.config.data.text_length}
    axes = {name: torch.export.Dim(name) for name in TRACED}
    axes["length"] = torch.export.Dim("length", max=model.config.model.text.bert.positions)
    inputs = tuple(
        torch.zeros([axis if isinstance(axis, int) else sizes[axis] for axis in shape], dtype=getattr(torch, kind))
        for shape, kind in zip(graph.inputs.values(), map(dtype, graph.inputs), strict=True)
    )
    dynamic = tuple(
        {index: axes[axis] for index, axis in enumerate(shape) if axis in axes} for shape in graph.inputs.values()
    )
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            tower,
            inputs,
            input_names=list(graph.inputs),
            output_names=[graph.output],
            dynamic_shapes=dynamic,
            opset_version=OPSET,
            dynamo=True,
            optimize=False,
            verbose=False,
        )
        if model.dtype == "float16":
            halve(program.model.graph)  # first: the optimiser multiplies weights by those of batch normalisation
        program.optimize()
    for value in (*program.model.graph.all_nodes(), *program.model.graph.inputs, *program.model.graph.outputs):
        value.metadata_props.clear()
    return program.model


def dtype(name: str) -> str:
    """Of an input: images and boxes are floats; ids and masks are what tokenizers give."""
    return "float32" if name in ("pixel_values", "boxes") else "int64"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on itself: libraries it could use, deprecated calls, axes with one name."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*LeafSpec.*deprecated", FutureWarning)
            warnings.filterwarnings("ignore", ".*axis name: .* will not be used", UserWarning)
            yield
    finally:
        logger.setLevel(level)


def save(traced: Any, path: Path) -> None:
    """Writes a traced graph; weights of more than `LARGEST_FILE` bytes go into `<path>.data` beside it."""
    import onnx_ir

    traced.producer_name, traced.producer_version = "wenlan_jax", __version__
    size = sum(value.const_value.nbytes for value in traced.graph.initializers.values())
    onnx_ir.save(traced, path, external_data=f"{path.name}.data" if size > LARGEST_FILE else None)


def halve(graph: Any) -> None:
    """Stores as float16 every float32 weight that has these values exactly, and widens it in the graph.

    The weights are rounded before; what the tracer has added, such as the smallest norm, keeps its precision.
    """
    import onnx_ir

    for name, value in list(graph.initializers.items()):
        wide = value.const_value.numpy()
        narrow = wide.astype(np.float16) if wide.dtype == np.float32 and wide.size > 1 else wide
        if narrow.dtype != np.float16 or not np.array_equal(narrow, wide):
            continue
        stored = onnx_ir.val(f"{name}.half", const_value=onnx_ir.tensor(narrow, name=f"{name}.half"))
        cast = onnx_ir.node("Cast", [stored], {"to": onnx_ir.DataType.FLOAT}, name=f"{name}.widen")
        cast.outputs[0].name, cast.outputs[0].shape, cast.outputs[0].type = name, value.shape, value.type
        onnx_ir.convenience.replace_all_uses_with(value, cast.outputs[0])
        del graph.initializers[name]
        graph.register_initializer(stored)
        graph.insert_before(graph[0], cast)


def check_batches(tower: torch.nn.Module, graph: Graph, path: Path, config: experiment.Config) -> None:
    """Compares a written graph with the PyTorch module; texts are cut to the longest of the batch where they may be.

    Args:
        tower: the PyTorch module.
        graph: its declaration.
        path: the graph's file.
        config: the configuration.

    Raises:
        ExportError: where an embedding's coordinate differs by more than the tolerance of float32.
    """
    import torch

    session, tolerance = open_session(path), parity.TOLERANCES["float32"]
    for items in CHECKED_BATCHES:
        feeds = feeds_of(parity.fixed_batch(config, items), graph, config)
        if graph.inputs.get("input_ids", ())[-1:] == ("length",):
            longest = int(feeds["attention_mask"].sum(1).max())
            feeds = {name: value[:, :longest] for name, value in feeds.items()}
        with torch.no_grad():
            expected = tower(*(torch.as_tensor(feeds[name]) for name in graph.inputs)).numpy()
        worst = float(np.abs(session.run([graph.output], feeds)[0] - expected).max())
        if not worst <= tolerance:  # written so that NaN fails
            raise ExportError(
                f"{graph.file}: with a batch of {items}, onnxruntime and PyTorch differ by {worst:.2e}, more than"
                f" {tolerance:.0e}; nothing was left behind. Try other versions of torch, onnxscript or onnxruntime"
            )


def run(folder: Path, config: experiment.Config, batch: parity.FixedBatch) -> parity.Embeddings:
    """Embeddings by the written graphs."""
    rows = []
    for graph in graphs(config):
        session = open_session(folder / graph.file)
        rows.append(session.run([graph.output], feeds_of(batch, graph, config))[0])
    return parity.Embeddings(*rows)


def open_session(path: Path) -> Any:
    """Opens an onnxruntime session on the CPU that reports errors alone."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def feeds_of(batch: parity.FixedBatch, graph: Graph, config: experiment.Config) -> Feeds:
    """Prepares the inputs of one graph, as the card tells its users to.

    Args:
        batch: the fixed batch.
        graph: the graph.
        config: the configuration.

    Returns:
        Arrays by the names of the inputs.
    """
    mean, std = (np.asarray(values, np.float32) for values in (config.augment.mean, config.augment.std))
    pixels = (batch.image.astype(np.float32) / np.float32(255) - mean) / std
    values: Mapping[str, np.ndarray | None] = {
        "pixel_values": np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)),
        "boxes": batch.boxes,
        "box_mask": batch.box_mask,
        "input_ids": batch.token_ids,
        "attention_mask": batch.token_mask,
    }
    return {name: np.asarray(values[name], dtype(name)) for name in graph.inputs}


def card(model: ExportedModel) -> str:
    """Writes README.md: inputs and outputs, how to prepare them, an example, and how the model was trained."""
    config = model.config
    masked = config.model.text.bert.attention_mask
    use = _CARD.format(
        step=model.step,
        embedding=config.model.embedding,
        version=__version__,
        opset=OPSET,
        rows="\n".join(_rows(model)),
        longest=f", `length` at most {config.model.text.bert.positions}" if masked else "",
        side=config.data.image_size,
        mean=config.augment.mean,
        std=config.augment.std,
        regions=_REGIONS if config.model.image.regions.kind == "boxes" else "",
        tokenizer=model.words.file_name,
        pad=model.words.pad_id,
        length=config.data.text_length,
        padding=_ANY_LENGTH if masked else _FIXED_LENGTH,
        requirements=example.REQUIREMENTS,
        example_file=example.FILE,
        example=example.source(model, "onnx"),
    )
    return model_card.metadata(model, "onnx", model_card.PIPELINE) + use + model_card.training(model)


def _rows(model: ExportedModel) -> Iterator[str]:
    for graph in graphs(model.config):
        outputs: dict[str, Shape] = {graph.output: ("batch", model.config.model.embedding)}
        for name, shape in (*graph.inputs.items(), *outputs.items()):
            kind = "float32" if name == graph.output else dtype(name)
            yield f"| `{graph.file}` | `{name}` | ({', '.join(map(str, shape))}) | {kind} |"
