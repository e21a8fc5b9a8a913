"""The export for transformers: ids, pixels, embeddings, backbone and round trips, all without a network."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
Image = pytest.importorskip("PIL.Image")

from wenlan_jax.convert import export_huggingface, exporting, parity, weights
from wenlan_jax.data import images, vocab
from wenlan_jax.data.text import SentencePiece, Tokenizer, WordPiece
from wenlan_jax.models import augment
from wenlan_jax.tasks import experiment  # noqa: E402
from wenlan_jax.tasks.two_tower.towers import Towers  # noqa: E402

TEXTS = [
    "一只黑白相间的猫坐在红色沙发上",
    "a red circle 在 yellow square 的左边 TOP-left!",
    "Ünïcode ＡＢＣ １２３ ﬁ Ⅷ 한국어 しましま",
    "[SEP] 不是 [CLS] a [MASK] special [PAD] [UNK] piece",
    "",
    "  spaces\tand\nlines  and\u3000wide  ",
    "👍🏽 emoji \u200b zero \ufeff width 𠀀",
    "很长的文字" * 20,
    "x" * 120,
]
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *"abcdefghijklmnopqrstuvwxyz",
    *"一只黑白猫坐在红色的左边不是[]!",
    "red",
]
VOCABULARY = [*WORDS, *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"), "cir", "##cle", "sep"]


class Exported(NamedTuple):
    model: exporting.ExportedModel
    folder: Path
    report: dict[str, Any]


def make_tokenizer(kind: str, folder: Path) -> Tokenizer:
    if kind == "words":
        (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in VOCABULARY), "utf-8")
        return WordPiece(folder / "vocab.txt", lower_case=True)
    vocab.train_sentencepiece(TEXTS * 8, folder / "pieces.model", 330, 0.99, 1000)
    return SentencePiece(folder / "pieces.model")


def make_model(tiny: Callable[..., experiment.Config], kind: str, folder: Path) -> exporting.ExportedModel:
    """Random weights; the two kinds differ in all the switches that an export has to carry over."""
    tokenizer = make_tokenizer(kind, folder)
    words = kind == "words"
    config = tiny(
        model__text__bert__vocab_size=tokenizer.size,
        model__text__bert__attention_mask=not words,
        model__image__regions__kind="grid" if words else "boxes",
        data__antialias=not words,
        tokenizer__lower_case=True,
    )
    variables = jax.tree.map(np.asarray, Towers(config).init(jax.random.key(0)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: x + rng.normal(0, 0.1, x.shape).astype(np.float32), variables["params"])
    stats = jax.tree.map(lambda x: x + rng.uniform(0, 0.5, x.shape).astype(np.float32), variables["batch_stats"])
    towers = exporting.by_tower(params, stats)
    return exporting.ExportedModel(config, 3, towers.__getitem__, towers, False, tokenizer, {}, {}, "float32")


_done: dict[str, Exported] = {}


@pytest.fixture
def export_of(tiny: Callable[..., experiment.Config], tmp_path_factory: Any) -> Callable[[str], Exported]:
    """One export of each kind for the whole module; tests do not change it."""

    def make(kind: str) -> Exported:
        if kind not in _done:
            folder = tmp_path_factory.mktemp(kind)
            model = make_model(tiny, kind, folder)
            # Dots, as a user might have them, are what older versions of transformers stumble over.
            out = folder / "wenlan.v1.0"
            report = exporting.export(model, "huggingface", export_huggingface.write, out, 1e-4)
            _done[kind] = Exported(model, out, report)
        return _done[kind]

    return make


@pytest.fixture(params=["words", "pieces"])
def exported(request: Any, export_of: Callable[[str], Exported]) -> Exported:
    """Each kind in turn."""
    return export_of(request.param)


@pytest.fixture
def words(export_of: Callable[[str], Exported]) -> Exported:
    """The export with word pieces."""
    return export_of("words")


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No network, and a cache of remote code that goes with the test."""
    import huggingface_hub.constants
    import transformers.dynamic_module_utils as dynamic

    before = list(sys.path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(dynamic, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    yield
    sys.path[:] = before
    for name in [name for name in sys.modules if name.split(".")[0] == "transformers_modules"]:
        del sys.modules[name]


def load(folder: Path, link: Path) -> tuple[Any, Any]:
    """Model and processor, through a link whose name is a Python name."""
    link.symlink_to(folder, target_is_directory=True)
    model = transformers.AutoModel.from_pretrained(link, trust_remote_code=True).eval()
    return model, transformers.AutoProcessor.from_pretrained(link, trust_remote_code=True)


def embeddings(model: Any, batch: parity.FixedBatch, pixels: Any) -> parity.Embeddings:
    boxes = () if batch.boxes is None else (torch.tensor(batch.boxes), torch.tensor(batch.box_mask))
    with torch.no_grad():
        image = model.get_image_features(pixels, *boxes)
        text = model.get_text_features(torch.tensor(batch.token_ids).long(), torch.tensor(batch.token_mask))
    return parity.Embeddings(image.numpy(), text.numpy())


def test_an_export_proves_itself_and_is_complete(exported: Exported) -> None:
    stored = json.loads((exported.folder / exporting.REPORT).read_text())
    assert stored == exported.report
    assert max(stored["image"]["largest_difference"], stored["text"]["largest_difference"]) < 1e-5
    assert {"README.md", "training_config.json", "wenlan_torch.py", "text_backbone"} <= {
        path.name for path in exported.folder.iterdir()
    }


def test_ids_and_masks_are_those_of_training(exported: Exported, tmp_path: Path) -> None:
    _, processor = load(exported.folder, tmp_path / "link")
    ids, mask = exported.model.words.encode(TEXTS, exported.model.config.data.text_length)
    out = processor(text=TEXTS)
    np.testing.assert_array_equal(out["input_ids"].numpy(), ids)
    np.testing.assert_array_equal(out["attention_mask"].numpy().astype(bool), mask)
    assert set(out) == {"input_ids", "attention_mask"}


def test_whole_texts_have_the_ids_of_training(exported: Exported, tmp_path: Path) -> None:
    _, processor = load(exported.folder, tmp_path / "link")
    out = processor.tokenizer(TEXTS, padding="max_length", max_length=200, return_tensors="np")
    ids, mask = exported.model.words.encode(TEXTS, 200)
    np.testing.assert_array_equal(out["input_ids"], ids)
    np.testing.assert_array_equal(out["attention_mask"], mask)


def test_word_pieces_are_those_of_bert_tokenizer(words: Exported, tmp_path: Path) -> None:
    _, processor = load(words.folder, tmp_path / "link")
    path = words.folder / "vocab.txt"
    reference = transformers.BertTokenizerFast(str(path), do_lower_case=True, split_special_tokens=True)
    assert processor.tokenizer(TEXTS)["input_ids"] == reference(TEXTS)["input_ids"]


@pytest.mark.parametrize("shape", [(16, 16), (40, 64), (9, 7), (50, 11), (17, 33)])
def test_pixels_are_those_of_training_up_to_one_level(
    exported: Exported, tmp_path: Path, shape: tuple[int, int]
) -> None:
    _, processor = load(exported.folder, tmp_path / "link")
    config = exported.model.config
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    ours = images.resize(image, config.data.image_size, config.data.antialias)
    expected = np.asarray(augment.normalise(jnp.asarray(ours)[None], config.augment.mean, config.augment.std))
    expected = expected.transpose(0, 3, 1, 2)
    levels = 255 * np.array(config.augment.std)[:, None, None]
    for form in (Image.fromarray(image), image, torch.tensor(image).permute(2, 0, 1)):
        got = processor(images=form)["pixel_values"].numpy()
        assert got.shape == expected.shape
        difference = np.abs(got - expected) * levels
        same_size = shape == ours.shape[:2]
        assert difference.max() < (1e-3 if same_size else 1 + 1e-3)
        assert np.mean(difference > 0.5) < 0.2  # of noise, where every rounding matters


def test_images_of_other_modes_and_types(exported: Exported, tmp_path: Path) -> None:
    _, processor = load(exported.folder, tmp_path / "link")
    grey = np.random.default_rng(0).integers(0, 256, (16, 16)).astype(np.uint8)
    same = processor(images=np.repeat(grey[..., None], 3, 2))["pixel_values"]
    torch.testing.assert_close(processor(images=Image.fromarray(grey))["pixel_values"], same)
    torch.testing.assert_close(processor(images=[grey, grey])["pixel_values"], torch.cat([same, same]))
    with pytest.raises(ValueError, match="uint8"):
        processor(images=grey / 255.0)
    with pytest.raises(ValueError, match="images, text"):
        processor()


def test_images_and_texts_are_embedded_as_in_jax(exported: Exported, tmp_path: Path) -> None:
    model, processor = load(exported.folder, tmp_path / "link")
    given, config = exported.model, exported.model.config
    batch = parity.fixed_batch(config, len(TEXTS))
    ids, mask = given.words.encode(TEXTS, config.data.text_length)
    batch = batch._replace(token_ids=ids, token_mask=mask)
    ours = parity.jax_embeddings(config, given.tower, batch)
    inputs = dict(processor(images=[Image.fromarray(image) for image in batch.image], text=TEXTS))
    if batch.boxes is not None:
        inputs |= {"boxes": torch.tensor(batch.boxes), "box_mask": torch.tensor(batch.box_mask)}
    with torch.no_grad():
        output = model(**inputs)
    np.testing.assert_allclose(output.image_embeds, ours.image, atol=1e-5)
    np.testing.assert_allclose(output.text_embeds, ours.text, atol=1e-5)
    np.testing.assert_allclose(output.similarity_per_image, ours.image @ ours.text.T, atol=1e-4)
    torch.testing.assert_close(output.similarity_per_text, output.similarity_per_image.T)
    # The towers must tell their inputs apart, or agreement would say little.
    assert min(np.ptp(ours.image, axis=0).max(), np.ptp(ours.text, axis=0).max()) > 1e-3


def test_the_example_of_the_card_runs(exported: Exported, tmp_path: Path) -> None:
    card = (exported.folder / "README.md").read_text("utf-8")
    shown = card.split("```python\n")[1].split("```")[0]
    assert shown == (exported.folder / "example.py").read_text("utf-8")
    shutil.copytree(exported.folder, tmp_path / "wenlan")
    Image.new("RGB", (40, 30), "red").save(tmp_path / "wenlan" / "image.jpg")
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "example.py"]
    done = subprocess.run(command, cwd=tmp_path / "wenlan", env=environment, capture_output=True, text=True, check=True)
    assert -1 <= float(done.stdout.split("similarity")[1]) <= 1


def test_saving_and_loading_keeps_everything(exported: Exported, tmp_path: Path) -> None:
    model, processor = load(exported.folder, tmp_path / "link")
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    again, same = load(tmp_path / "saved", tmp_path / "second")
    batch = parity.fixed_batch(exported.model.config)
    images = list(batch.image)
    pixels = processor(images=images)["pixel_values"]
    for first, second in zip(embeddings(model, batch, pixels), embeddings(again, batch, pixels), strict=True):
        np.testing.assert_array_equal(first, second)
    torch.testing.assert_close(same(images=images)["pixel_values"], pixels, rtol=0, atol=0)
    assert same(text=TEXTS)["input_ids"].tolist() == processor(text=TEXTS)["input_ids"].tolist()


def test_the_text_backbone_is_a_plain_bert_model(exported: Exported) -> None:
    given = exported.model
    batch = parity.fixed_batch(given.config)
    bert, loaded = transformers.BertModel.from_pretrained(
        exported.folder / "text_backbone", add_pooling_layer=False, output_loading_info=True
    )
    assert not any(loaded[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    mask = batch.token_mask if given.config.model.text.bert.attention_mask else np.ones_like(batch.token_mask)
    inputs = {"token_ids": jnp.asarray(batch.token_ids), "token_mask": jnp.asarray(batch.token_mask)}
    ours = Towers(given.config).embed_texts({"text": given.tower("text")["params"]}, inputs, None).inputs
    with torch.no_grad():
        theirs = bert.eval()(torch.tensor(batch.token_ids).long(), torch.tensor(mask).long()).last_hidden_state
    np.testing.assert_allclose(theirs.numpy()[batch.token_mask], np.asarray(ours)[batch.token_mask], atol=1e-4)


@pytest.mark.slow
def test_half_precision_is_written_and_agrees(words: Exported, tmp_path: Path) -> None:
    half = dataclasses.replace(words.model, dtype="float16")
    exporting.export(half, "huggingface", export_huggingface.write, tmp_path / "half", parity.TOLERANCES["float16"])
    model = transformers.AutoModel.from_pretrained(tmp_path / "half", trust_remote_code=True, torch_dtype="auto")
    assert model.dtype == torch.float16


@pytest.mark.slow
def test_two_exports_in_one_process_do_not_mix_their_code(words: Exported, tmp_path: Path) -> None:
    """Same folder name, other code: the second must run its own."""
    batch = parity.fixed_batch(words.model.config)
    first = export_huggingface.run_folder(words.folder, batch)
    changed = tmp_path / words.folder.name
    shutil.copytree(words.folder, changed)
    source = (changed / "wenlan_torch.py").read_text()
    (changed / "wenlan_torch.py").write_text(
        source.replace("return F.normalize(projection(", "return -F.normalize(projection(")
    )
    second = export_huggingface.run_folder(changed, batch)
    np.testing.assert_allclose(second.text, -first.text, atol=1e-6)
    assert not any(name.startswith("transformers_modules") for name in sys.modules)


@pytest.mark.slow
def test_a_wrong_text_backbone_is_found(words: Exported, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(words.folder, broken)
    path = broken / "text_backbone" / "model.safetensors"
    state = {key: value + np.float32(1) for key, value in weights.read(path).items()}
    weights.write_safetensors(state, path, {"format": "pt"})
    with pytest.raises(exporting.ExportError, match="text_backbone as a BertModel differs"):
        export_huggingface.run_folder(broken, parity.fixed_batch(words.model.config))


@pytest.mark.slow
def test_a_folder_that_cannot_be_loaded_is_an_export_error(words: Exported, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(words.folder, broken)
    (broken / "modeling_wenlan.py").unlink()
    with pytest.raises(exporting.ExportError, match="modeling_wenlan"):
        export_huggingface.run_folder(broken, parity.fixed_batch(words.model.config))
