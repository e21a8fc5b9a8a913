"""Tokenizers: parity with independent implementations, the row layout, errors, and vocabulary training."""

from __future__ import annotations

import argparse
import json
import pickle
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from wenlan_jax.commands import vocab as command
from wenlan_jax.data import text, vocab

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDE0123456789"
CHARACTERS = "一只红色的猫坐在草地上看月亮東京タワー서울"
MARKS = list("[](){}.,!?-_'\"#@$%^&*+=~`|/\\<>:;，。！？「」、（）…—￥")
WORDS = [
    "cat",
    "##s",
    "red",
    "un",
    "##believ",
    "##able",
    "caf",
    "##e",
    "##é",
    "café",
    "cls",
    "sep",
    "ａ",
    "ß",
    "２",
]

DIRTY = [
    "一只红色的猫坐在草地上",
    "红cat色 Cats坐在2024年",
    "unbelievable CAFÉ café cafe\u0301 naïve",
    "ｆｕｌｌ－ｗｉｄｔｈ　２０２４，ＡＢＣ",
    "tabs\tand\nnew\r\nlines\x0bmore",
    "control\x00\x01\x07\x1b\x7f\x9fcharacters\ufffd",
    "zero\u200bwidth\u200d joiner\ufeff bom\u00ad soft",
    "emoji 😀👩‍👩‍👧🏽 flags 🇨🇳",
    "[SEP] [CLS][MASK] [PAD] [UNK] [unused1] ##s",
    "supercalifragilistic" * 8,
    "a" * 100 + " " + "a" * 101,
    "",
    "   \t ",
    "…—「引号」！？、（全角）",
    "서울 タワー 東京 がぎぐ",
    "\u2028line\u2029separators\u00a0nbsp\u3000wide",
    "İstanbul ẞß ǅ ΑΒΓς",
    "𠀀𪜀 extension B and D",
]


@pytest.fixture(scope="module")
def vocab_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pieces = list(LETTERS) + [f"##{letter}" for letter in LETTERS] + list(CHARACTERS) + MARKS + WORDS
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("".join(f"{piece}\n" for piece in dict.fromkeys(SPECIAL + pieces)), "utf-8")
    return path


def _fuzz(count: int) -> list[str]:
    """Texts of characters that tokenizers treat differently: letters, marks, controls, combining, wide, astral."""
    rng = np.random.default_rng(0)
    odd = "\u0301\u0308\u200b\u200d\ufeff\u3000\u00a0\t\n\x00\x7fＡｂ２éÉßİſ㈠①ﬁ々〆ゞ한글👍🏽𠀀\ufffd"
    pool = [*LETTERS, *CHARACTERS, *MARKS, *odd, " ", " ", " "]
    return ["".join(rng.choice(pool, rng.integers(1, 30))) for _ in range(count)]


@pytest.mark.parametrize("lower_case", [True, False])
def test_word_pieces_equal_transformers(vocab_path: Path, lower_case: bool) -> None:
    transformers = pytest.importorskip("transformers")
    reference = transformers.BertTokenizer(str(vocab_path), do_lower_case=lower_case, split_special_tokens=True)
    texts = DIRTY + _fuzz(300)
    expected = reference(texts, padding="max_length", truncation=True, max_length=24)
    ids, mask = text.WordPiece(vocab_path, lower_case).encode(texts, 24)
    np.testing.assert_array_equal(ids, np.array(expected["input_ids"]))
    np.testing.assert_array_equal(mask, np.array(expected["attention_mask"]).astype(bool))


@pytest.mark.parametrize("lower_case", [True, False])
def test_word_pieces_equal_the_pure_python_implementation(vocab_path: Path, lower_case: bool) -> None:
    legacy = pytest.importorskip("transformers.models.bert.tokenization_bert_legacy")
    reference = legacy.BertTokenizerLegacy(str(vocab_path), do_lower_case=lower_case)
    # Its own scan for special tokens comes first there, so the one text that holds them is left out.
    texts = [sample for sample in DIRTY + _fuzz(300) if "[SEP]" not in sample]
    # It also composes accents (NFC), which neither the first BERT code nor the current implementation does.
    texts = [unicodedata.normalize("NFC", sample) for sample in texts]
    ids, mask = text.WordPiece(vocab_path, lower_case).encode(texts, 300)
    for row, sample in enumerate(texts):
        assert ids[row][mask[row]].tolist() == reference.encode(sample), repr(sample)


def test_a_caption_cannot_write_special_tokens(vocab_path: Path) -> None:
    tokenizer = text.WordPiece(vocab_path, True)
    ids, mask = tokenizer.encode(["cat [SEP] [CLS] [MASK] [PAD]"], 40)
    inner = ids[0][mask[0]][1:-1]
    assert not set(inner.tolist()) & {tokenizer.pad_id, tokenizer.mask_id, 2, 3}
    assert inner[1:4].tolist() == [tokenizer._vocab[piece] for piece in ("[", "sep", "]")]


def test_lone_surrogates_are_dropped(vocab_path: Path) -> None:
    ids, _ = text.WordPiece(vocab_path, True).encode(["red \ud83d cat", "red cat"], 10)
    np.testing.assert_array_equal(ids[0], ids[1])


def test_rows_are_cut_and_padded(vocab_path: Path) -> None:
    tokenizer = text.WordPiece(vocab_path, True)
    ids, mask = tokenizer.encode(["cat", "cat cat cat cat", ""], 4)
    cat = tokenizer._vocab["cat"]
    assert ids.dtype == np.int32 and mask.dtype == np.bool_
    assert ids.tolist() == [[2, cat, 3, 0], [2, cat, cat, 3], [2, 3, 0, 0]]
    assert mask.tolist() == [[True] * 3 + [False], [True] * 4, [True, True, False, False]]
    assert tokenizer.encode([], 4)[0].shape == (0, 4)


def test_encode_refuses_a_bare_string_and_a_short_length(vocab_path: Path) -> None:
    tokenizer = text.WordPiece(vocab_path, True)
    with pytest.raises(TypeError, match="list"):
        tokenizer.encode("cat", 8)
    with pytest.raises(ValueError, match=r"\[CLS\]"):
        tokenizer.encode(["cat"], 1)


def test_vocabulary_lines_end_at_line_feeds_only(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes("\r\n".join([*SPECIAL, "\u2028", "\x85", "cat", ""]).encode())
    tokenizer = text.WordPiece(path, True)
    assert tokenizer.size == 8
    assert tokenizer.encode(["cat"], 3)[0].tolist() == [[2, 7, 3]]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"cat\ndog\n", r"lacks \[PAD\], \[UNK\]"), (b"\xff\xfe", "not UTF-8"), (None, "cannot read")],
)
def test_bad_vocabularies_are_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "vocab.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(text.TokenizerError, match=message) as caught:
        text.load_tokenizer(path)
    assert str(path) in str(caught.value)


def test_fingerprint_tells_files_and_options_apart(vocab_path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "vocab.txt"
    copy.write_bytes(vocab_path.read_bytes())
    longer = tmp_path / "longer.txt"
    longer.write_bytes(vocab_path.read_bytes() + b"dog\n")
    lower = text.WordPiece(vocab_path, True).fingerprint
    assert text.WordPiece(copy, True).fingerprint == lower
    assert text.WordPiece(copy, False).fingerprint != lower
    assert text.WordPiece(longer, True).fingerprint != lower


SENTENCES = [
    f"{colour} {shape} {number}"
    for number in range(20)
    for colour in ("red", "green", "蓝色的", "rouge", "빨간", "青い")
    for shape in ("cat", "dog", "月亮", "maison", "고양이", "猫")
]


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "small.model"
    vocab.train_sentencepiece(SENTENCES, path, 300, 0.9995, 1_000_000)
    return path


def test_training_is_deterministic(model_path: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.model"
    count = vocab.train_sentencepiece(iter(SENTENCES), again, 300, 0.9995, 1_000_000)
    assert count == len(SENTENCES)
    assert again.read_bytes() == model_path.read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["again.model"]


def test_trained_model_declares_its_pieces(model_path: Path) -> None:
    tokenizer = text.SentencePiece(model_path)
    assert (tokenizer.pad_id, tokenizer.mask_id, tokenizer.size) == (0, 4, 300)
    ids, mask = tokenizer.encode(["red cat", "[SEP][MASK][PAD]"], 40)
    assert ids[:, 0].tolist() == [2, 2]
    for row in range(2):
        inner = ids[row][mask[row]]
        assert inner[-1] == 3 and not set(inner[1:-1].tolist()) & {0, 1, 2, 3, 4}


def test_rare_characters_survive_by_byte_fallback(model_path: Path) -> None:
    tokenizer = text.SentencePiece(model_path)
    samples = ["😀", "𠀀 ß", "ЖЩ"]
    ids, mask = tokenizer.encode(samples, 40)
    decoded = [tokenizer._library.decode(ids[row][mask[row]].tolist()) for row in range(len(samples))]
    assert decoded == samples
    assert tokenizer.encode(["full"], 9)[0].tolist() == tokenizer.encode(["ｆｕｌｌ"], 9)[0].tolist()


def test_bpe_keeps_frequent_words_whole_and_split_han_every_han_character_apart(tmp_path: Path) -> None:
    lines = ["画面左上角有一个红色的圆形 a yellow striped circle しましまの"] * 60
    vocab.train_sentencepiece(lines, tmp_path / "s.model", 340, 1.0, 1_000_000, algorithm="bpe", split_han=True)
    library = text.load_tokenizer(tmp_path / "s.model")._library
    pieces = library.encode(lines[0], out_type=str)
    assert {"▁yellow", "▁striped", "▁circle"} <= set(pieces)
    assert [p for p in pieces if p in "画面左上角有一个红色的圆形"] == list("画面左上角有一个红色的圆形")
    assert library.decode(library.encode(lines[0])) == lines[0]
    assert all("\ue000" not in library.id_to_piece(i) for i in range(library.get_piece_size()))


@pytest.mark.parametrize(("size", "remedy"), [(100_000, r"set \d+ or less"), (100, r"set more than \d+")])
def test_a_size_that_does_not_fit_is_explained(tmp_path: Path, size: int, remedy: str) -> None:
    out = tmp_path / "x.model"
    with pytest.raises(vocab.VocabularySizeError, match=remedy):
        vocab.train_sentencepiece(SENTENCES, out, size, 1.0, 1_000_000)
    assert not out.exists()


def test_the_command_names_its_option_for_a_size_that_does_not_fit(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(SENTENCES), encoding="utf-8")
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    arguments = [f"--text={tmp_path / 'texts.txt'}", f"--out={tmp_path / 'x.model'}", "--size=100"]
    with pytest.raises(text.TokenizerError, match=r"^--size: a vocabulary of 100 is too small"):
        command.run(parser.parse_args(arguments), [])


def test_training_reports_the_cause_of_a_failing_corpus(tmp_path: Path) -> None:
    with pytest.raises(text.TokenizerError, match="no text"):
        vocab.train_sentencepiece(["", " \x00"], tmp_path / "x.model", 300, 1.0, 1_000_000)

    def broken():
        yield "red"
        raise KeyError("row 7")

    with pytest.raises(KeyError, match="row 7"):
        vocab.train_sentencepiece(broken(), tmp_path / "x.model", 300, 1.0, 1_000_000)


def test_load_tokenizer_picks_by_file(vocab_path: Path, model_path: Path, tmp_path: Path) -> None:
    assert isinstance(text.load_tokenizer(vocab_path.parent), text.WordPiece)
    assert isinstance(text.load_tokenizer(model_path.parent), text.SentencePiece)
    with pytest.raises(text.TokenizerError, match="holds none"):
        text.load_tokenizer(tmp_path)
    (tmp_path / "a.model").write_bytes(model_path.read_bytes())
    (tmp_path / "vocab.txt").write_bytes(vocab_path.read_bytes())
    with pytest.raises(text.TokenizerError, match=r"several tokenizers \(vocab.txt, a.model\)"):
        text.load_tokenizer(tmp_path)
    (tmp_path / "a.model").write_bytes(b"junk")
    with pytest.raises(text.TokenizerError, match="not a SentencePiece model"):
        text.load_tokenizer(tmp_path / "a.model")


def test_declared_case_is_followed(vocab_path: Path, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes(vocab_path.read_bytes())
    assert ":lower:" in text.load_tokenizer(tmp_path).fingerprint
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    assert ":cased:" in text.load_tokenizer(tmp_path).fingerprint
    assert ":lower:" in text.load_tokenizer(tmp_path, lower_case=True).fingerprint
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(text.TokenizerError, match="tokenizer_config.json"):
        text.load_tokenizer(tmp_path)


@pytest.mark.parametrize("kind", ["wordpiece", "sentencepiece"])
def test_a_pickled_tokenizer_needs_no_file(kind: str, vocab_path: Path, model_path: Path, tmp_path: Path) -> None:
    original = vocab_path if kind == "wordpiece" else model_path
    path = tmp_path / original.name
    path.write_bytes(original.read_bytes())
    tokenizer = text.load_tokenizer(path)
    expected = tokenizer.encode(DIRTY[:5], 20)[0]
    data = pickle.dumps(tokenizer)
    path.unlink()
    copy = pickle.loads(data)
    np.testing.assert_array_equal(copy.encode(DIRTY[:5], 20)[0], expected)
    assert copy.fingerprint == tokenizer.fingerprint


def test_data_modules_import_neither_jax_nor_tensorflow(vocab_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from wenlan_jax.data import sources, text, vocab\nfrom wenlan_jax.prepare import ingest, pack, raw_items\n"
        "text.load_tokenizer(Path(sys.argv[1])).encode(['red cat'], 8)\n"
        "print(sorted({'jax', 'tensorflow', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(vocab_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_ids_of_xlm_roberta_equal_transformers(tmp_path: Path) -> None:
    """Its file knows other ids than the model was trained with, and neither padding nor a mask."""
    sentencepiece, transformers = pytest.importorskip("sentencepiece"), pytest.importorskip("transformers")
    texts = ["the red circle is on the left", "ein roter Kreis links", "左边有一个红色的圆", "왼쪽에 빨간 원"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts * 50),
        model_prefix=str(tmp_path / "sentencepiece.bpe"),
        vocab_size=120,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    path = tmp_path / "sentencepiece.bpe.model"
    ours = text.load_tokenizer(path)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    pieces = [(processor.id_to_piece(i), processor.get_score(i)) for i in range(3, processor.get_piece_size())]
    special = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    theirs = transformers.XLMRobertaTokenizer(vocab=[*special, *pieces, ("<mask>", 0.0)])
    sentences = [*texts, "the left ☃ circle", "links 圆"]
    ids, mask = ours.encode(sentences, 24)
    expected = theirs(sentences, padding="max_length", truncation=True, max_length=24)
    np.testing.assert_array_equal(ids, expected["input_ids"])
    np.testing.assert_array_equal(mask, expected["attention_mask"])
    assert (ours.mask_id, ours.pad_id, ours.size) == (theirs.mask_token_id, theirs.pad_token_id, len(theirs))
    assert 3 in ids[4], "an unknown piece has fairseq's id"
    assert text.load_tokenizer(ours.save(tmp_path)).fingerprint == ours.fingerprint
    every = range(ours.size)
    assert ours.pieces(every) == theirs.convert_ids_to_tokens(list(every))


def test_pieces_spell_word_pieces(vocab_path: Path) -> None:
    tokenizer = text.load_tokenizer(vocab_path)
    ids, mask = tokenizer.encode(["Cats 一只 ☃"], 10)
    expected = ["[CLS]", "cat", "##s", "一", "只", "[UNK]", "[SEP]"]
    assert tokenizer.pieces(ids[0][mask[0]].tolist()) == expected
    assert tokenizer.pieces(range(tokenizer.size)) == vocab_path.read_text("utf-8").splitlines()


def test_pieces_spell_sentence_pieces(model_path: Path) -> None:
    tokenizer = text.load_tokenizer(model_path)
    ids, mask = tokenizer.encode([SENTENCES[0]], 64)
    first, *pieces, last = tokenizer.pieces(ids[0][mask[0]].tolist())
    library = pytest.importorskip("sentencepiece").SentencePieceProcessor(model_file=str(model_path))
    assert pieces == library.encode(SENTENCES[0], out_type=str)
    assert (first, last) == (library.id_to_piece(library.bos_id()), library.id_to_piece(library.eos_id()))


def test_an_id_beyond_the_vocabulary_is_named(vocab_path: Path, model_path: Path) -> None:
    for path in (vocab_path, model_path):
        tokenizer = text.load_tokenizer(path)
        for number in (-1, tokenizer.size):
            with pytest.raises(ValueError, match=f"id {number} is none of the tokenizer"):
                tokenizer.pieces([0, number])
