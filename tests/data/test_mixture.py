"""Mixtures: shares as exact as whole numbers allow, exact epochs of every part, texts by rule, equal on all hosts."""

from __future__ import annotations

import collections
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy import stats

from wenlan_jax.config import sections
from wenlan_jax.data import loader, order, records, sources
from wenlan_jax.data.mixture import Mixture, MixtureError, MixturePart, TextChoice, WantedTexts
from wenlan_jax.prepare import tfds_files
from wenlan_jax.tasks import config_changes, experiment, shared_data
from wenlan_jax.tasks.experiment import Config, ConfigError

ANY = TextChoice(WantedTexts((), ()), "any", (), 1.0)
JPEG = cv2.imencode(".jpg", np.full((9, 12, 3), 90, np.uint8))[1].tobytes()


class Rows:
    """A source of `length` records of one image; the text says source and row."""

    def __init__(self, name: str, length: int) -> None:
        self.name, self.length = name, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, row: int, /) -> records.Record:
        return records.Record(f"{row}", JPEG, 12, 9, texts=(records.Text("title", "zh", f"{self.name} {row}"),))


class Count:
    """A tokenizer that remembers: the ids of a text are its source's letter and its row."""

    pad_id, mask_id, size, fingerprint = 0, None, 1000, "count"

    def encode(self, texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
        ids = np.array([[ord(name[0]), int(row)] for name, row in (text.split() for text in texts)], np.int32)
        return ids, np.ones_like(ids, bool)


def _mixture(lengths: Sequence[int], weights: Sequence[float], seed: int = 3) -> Mixture:
    named = zip("abcdefgh", lengths, weights, strict=False)
    return Mixture([MixturePart(Rows(name, length), ANY, weight) for name, length, weight in named], seed)


WEIGHTS = [(1,), (1, 1), (7, 2, 1), (1, 1, 1), (90, 2, 2, 2, 2, 2), (8, 4, 2, 1), (1, 300), (5, 5, 3, 3, 2, 1, 1)]


@pytest.mark.parametrize("weights", WEIGHTS)
def test_shares_are_exact_in_every_window(weights: tuple[int, ...]) -> None:
    total = sum(weights)
    parts, examples = order.Interleave(weights).split(np.arange(3 * total))
    before = np.cumsum(parts[:, None] == np.arange(len(weights)), axis=0)
    ideal = np.arange(1, 3 * total + 1)[:, None] * np.array(weights) / total
    assert np.abs(before - ideal).max() < 2
    assert np.array_equal(before[total - 1 :: total], np.arange(1, 4)[:, None] * np.array(weights))
    for part in range(len(weights)):
        assert np.array_equal(examples[parts == part], np.arange((parts == part).sum()))


def test_two_parts_take_turns_as_evenly_as_can_be() -> None:
    parts, _ = order.Interleave((3, 1)).split(np.arange(16))
    assert np.array_equal(np.diff(np.flatnonzero(parts == 1)), [4, 4, 4])


def test_random_weights_stay_within_the_bound() -> None:
    random = np.random.default_rng(0)
    for _ in range(60):
        weights = tuple(int(w) for w in random.integers(1, 10 ** random.integers(1, 9), random.integers(1, 9)))
        interleave = order.Interleave(weights)
        for position in random.integers(0, 10**12, 20).tolist():
            ideal = [position * weight / sum(weights) for weight in weights]
            counts = interleave.counts(position)
            assert sum(counts) == position
            assert max(abs(count - wanted) for count, wanted in zip(counts, ideal, strict=True)) < 2


def test_counts_agree_with_the_sequence_far_out() -> None:
    interleave, start = order.Interleave((650_000_000, 30_000_000, 11_000)), 10**13
    parts, examples = interleave.split(np.arange(start, start + 20_000))
    counts = interleave.counts(start)
    for part in range(3):
        mine = examples[parts == part]
        assert np.array_equal(mine, counts[part] + np.arange(len(mine)))


def test_weights_become_whole_numbers_of_the_same_shares() -> None:
    assert order.whole_weights([0.7, 0.2, 0.1]) == (7, 2, 1)
    assert order.whole_weights([1 / 3, 1 / 3, 1 / 3]) == (1, 1, 1)
    assert order.whole_weights([2.5, 7.5]) == (1, 3)
    with pytest.raises(ValueError, match="positive whole"):
        order.Interleave((1, 0))


@pytest.mark.parametrize("weights", [(0, 0, 0), (0.5, 0.3, 0.2)])
def test_every_source_is_covered_once_an_epoch(weights: tuple[float, ...]) -> None:
    lengths = (12, 7, 5)
    mixture = _mixture(lengths, weights)
    seen: dict[int, list[int]] = collections.defaultdict(list)
    for step in range(60):
        for row in mixture.draw(step, 8, range(8)):
            seen[row.part].append(row.row)
    for part, length in enumerate(lengths):
        whole = len(seen[part]) // length
        assert whole >= 2
        epochs = np.array(seen[part][: whole * length]).reshape(whole, length)
        assert (np.sort(epochs, axis=1) == np.arange(length)).all()
        assert len({tuple(epoch) for epoch in epochs.tolist()}) > 1


def test_weights_by_size_cover_everything_once_in_as_many_pairs() -> None:
    mixture = _mixture((12, 7, 5), (0, 0, 0))
    drawn = [(row.part, row.row) for step in range(3) for row in mixture.draw(step, 8, range(8))]
    assert sorted(drawn) == [(part, row) for part, length in enumerate((12, 7, 5)) for row in range(length)]


def test_a_mixture_of_one_has_the_order_of_its_source() -> None:
    rows = [row.row for row in _mixture((11,), (0,), seed=5).draw(4, 8, range(8))]
    assert rows == order.Order(11, 5, True).rows(4, 8)[0].tolist()


def test_parts_of_equal_length_are_shuffled_apart() -> None:
    mixture = _mixture((1000, 1000), (1, 1))
    first, second = (np.array([row.row for row in mixture.draw(0, 2000, range(2000)) if row.part == p]) for p in (0, 1))
    assert np.mean(first == second) < 0.01


@pytest.mark.parametrize("hosts", [2, 4, 8])
def test_hosts_together_draw_the_global_batch(hosts: int) -> None:
    mixture = _mixture((12, 7, 5), (3, 2, 1))
    for step in (0, 17):
        whole = mixture.draw(step, 8, range(8))
        parts = [mixture.draw(step, 8, range(host, 8, hosts)) for host in range(hosts)]
        assert [parts[place % hosts][place // hosts] for place in range(8)] == whole


def test_progress_counts_what_was_drawn() -> None:
    mixture = _mixture((12, 7, 5), (3, 2, 1))
    drawn = collections.Counter(row.part for step in range(5) for row in mixture.draw(step, 8, range(8)))
    progress = mixture.progress(40)
    for part, (name, length) in enumerate(zip("abc", (12, 7, 5), strict=True)):
        assert progress[f"{name}/pairs"] == drawn[part]
        assert progress[f"{name}/epochs"] == drawn[part] / length


def test_ids_tell_images_apart_and_shared_sources_agree() -> None:
    shared = Rows("a", 10)
    mixture = Mixture([MixturePart(shared, ANY, 1), MixturePart(Rows("b", 4), ANY, 1), MixturePart(shared, ANY, 2)], 0)
    mixture = pickle.loads(pickle.dumps(mixture))
    assert mixture.id(0, 3) == mixture.id(2, 3) == 3
    assert mixture.id(1, 0) == 10
    assert mixture.names == ("a#0", "b", "a#2")


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_a_mixture_hold_the_texts_of_their_rows(workers: int) -> None:
    mixture = _mixture((12, 7), (1, 2))
    maker = loader.TrainBatches(
        mixture, Count(), 6, tuple(range(6)), loader.ImageReader(8, True, "fast", 0, True), 2, "raise"  # type: ignore[arg-type]
    )  # fmt: skip
    with loader.train_batches(maker, 2, workers, 2) as batches:
        for step, batch in (next(batches) for _ in range(3)):
            drawn = mixture.draw(step, 6, range(6))
            assert batch["token_ids"].tolist() == [[ord("ab"[row.part]), row.row] for row in drawn]
            assert batch["id"].tolist() == [mixture.id(row.part, row.row) for row in drawn]


def _record(*texts: tuple[str, str]) -> records.Record:
    found = tuple(records.Text(kind, language, f"{kind} {language} {at}") for at, (kind, language) in enumerate(texts))
    return records.Record("r", JPEG, 12, 9, texts=found)


def _drawn(choice: TextChoice, record: records.Record, field: str, count: int = 3000) -> collections.Counter[str]:
    return collections.Counter(getattr(choice.draw(record, 0, position), field) for position in range(count))


def test_the_first_kind_that_a_record_has_is_taken() -> None:
    choice = TextChoice(WantedTexts(("sur_text", "title"), ()), "first", (), 1.0)
    both = _record(("title", "zh"), ("sur_text", "zh"), ("alt_text", "zh"), ("sur_text", "en"))
    assert set(_drawn(choice, both, "text", 50)) == {"sur_text zh 1", "sur_text en 3"}
    assert set(_drawn(choice, _record(("alt_text", "zh"), ("title", "zh")), "kind", 20)) == {"title"}
    assert choice.draw(_record(("alt_text", "zh")), 0, 0) is None


def test_kinds_are_drawn_by_weight_among_those_there() -> None:
    choice = TextChoice(WantedTexts(("a", "b", "c"), ()), "weighted", (1.0, 2.0, 5.0), 1.0)
    found = _drawn(choice, _record(("a", "zh"), ("b", "zh"), ("b", "en")), "kind")
    assert stats.chisquare([found["a"], found["b"]], [1000, 2000]).pvalue > 1e-4
    assert found["c"] == 0


@pytest.mark.parametrize(("alpha", "expected"), [(1.0, (3, 1)), (0.5, (3**0.5, 1)), (0.0, (1, 1))])
def test_languages_are_drawn_by_tempered_counts(alpha: float, expected: tuple[float, float]) -> None:
    choice = TextChoice(WantedTexts((), ()), "any", (), alpha)
    found = _drawn(choice, _record(("a", "zh"), ("b", "zh"), ("c", "zh"), ("a", "ko")), "language")
    wanted = 3000 * np.array(expected) / sum(expected)
    assert stats.chisquare([found["zh"], found["ko"]], wanted).pvalue > 1e-4


def test_the_language_of_a_step_follows_seed_step_and_counts_alone() -> None:
    counts = {"zh": 900, "en": 90, "ko": 10, "cs": 0}
    drawn = [order.language_of_step(1, step, counts, 0.5) for step in range(3000)]
    assert drawn == [order.language_of_step(1, step, dict(reversed(counts.items())), 0.5) for step in range(3000)]
    raised = np.array([900, 90, 10]) ** 0.5
    found = collections.Counter(drawn)
    assert stats.chisquare([found[x] for x in ("zh", "en", "ko")], 3000 * raised / raised.sum()).pvalue > 1e-4
    assert "cs" not in found
    with pytest.raises(ValueError, match="one must be positive"):
        order.tempered([0, 0], 0.0)


def test_mixtures_that_cannot_be_are_refused() -> None:
    with pytest.raises(MixtureError, match="every part a positive weight, or none"):
        _mixture((3, 4), (1, 0))
    with pytest.raises(MixtureError, match="int32"):
        Mixture([MixturePart(Rows("a", 2**31), ANY, 1.0)], 0)
    with pytest.raises(MixtureError, match="no part"):
        Mixture([], 0)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sources")
    for name, length in (("web", 6), ("news", 4)):
        rows = [
            records.Record(
                f"{name}{row}",
                JPEG,
                12,
                9,
                texts=(records.Text("sur_text", "zh", f"{name} {row}"), records.Text("title", "zh", f"t{row}")),
            )
            for row in range(length)
        ]
        tfds_files.write(root / name, {"train": rows}, "test")
    return root


WEB = {"source": "web", "weight": 3, "kinds": ("sur_text",)}
NEWS = {"source": "news", "weight": 1.0, "kinds": ("title", "sur_text"), "kind_choice": "first"}


def test_a_configured_mixture_is_opened_and_survives_its_canonical_text(
    tiny: Callable[..., Config], data_dir: Path
) -> None:
    config = tiny(data__mixture=(WEB, NEWS, WEB), data__dir=str(data_dir))
    assert experiment.from_json(experiment.to_json(config)) == config
    mixture = shared_data.mixture(config.data, 0)
    assert [(name, part.weight) for name, part in zip(mixture.names, mixture.parts, strict=True)] == [
        ("web/train#0", 3.0), ("news/train", 1.0), ("web/train#2", 3.0)
    ]  # fmt: skip
    assert mixture.parts[0].source is mixture.parts[2].source
    assert mixture.parts[1].texts.draw(mixture.parts[1].source[2], 0, 0) == records.Text("title", "zh", "t2")
    assert sorted(shared_data.texts(config.data))[:4] == ["news 0", "news 1", "news 2", "news 3"]


def test_without_a_mixture_the_single_source_is_trained_on(tiny: Callable[..., Config], data_dir: Path) -> None:
    config = tiny(data__source="news", data__kinds=("title",), data__dir=str(data_dir))
    mixture = shared_data.mixture(config.data, 0)
    assert mixture.name == "news/train"
    assert mixture.parts[0].texts.wanted == WantedTexts(("title",), ())
    with pytest.raises(sources.SourceError, match="'gone' not found"):
        shared_data.mixture(tiny(data__mixture=({"source": "gone"},), data__dir=str(data_dir)).data, 0)


def test_a_changed_mixture_is_a_change_of_the_run(tiny: Callable[..., Config]) -> None:
    saved = config_changes.completed({})
    assert not [
        line for line in config_changes.changes(saved, experiment.parse(experiment.default())) if "mixture" in line
    ]
    changed = config_changes.changes(saved, tiny(data__mixture=(WEB,)))
    assert any(line.startswith("data.mixture: saved [], now [{'source': 'web'") for line in changed), changed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__mixture": ({"sorce": "web"},)}, r"data\.mixture\[0\]\.sorce: no such field; did you mean .*source"),
        ({"data__mixture": ({},)}, r"data\.mixture\[0\]\.source: name a data set"),
        ({"data__mixture": ("web",)}, r"data\.mixture: a tuple of dicts"),
        ({"data__mixture": (WEB, {"source": "x", "weight": -1})}, r"data\.mixture\[1\]\.weight: at least 0"),
        ({"data__mixture": (WEB, {"source": "x"})}, r"data\.mixture: give every part a positive weight, or none"),
        ({"data__mixture": (WEB,), "data__kinds": ("a",)}, r"data\.kinds.*each part has its own"),
        ({"data__kind_choice": "first"}, r"data\.kinds: list the kinds that kind_choice='first'"),
        (
            {"data__kind_choice": "weighted", "data__kinds": ("a", "b"), "data__kind_weights": (1.0,)},
            r"data\.kind_weights: a positive number for each",
        ),
        ({"data__kind_weights": (1.0,)}, r"data\.kind_weights: is for data\.kind_choice='weighted'"),
    ],
)
def test_faults_of_a_mixture_name_the_field(
    tiny: Callable[..., Config], changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(**changes)


def test_a_mixture_can_be_given_on_the_command_line() -> None:
    config = experiment.override(
        experiment.default(), ["--config.data.mixture=({'source': 'web', 'kinds': ('title',)},)"]
    )
    assert config.data.mixture == (sections.MixturePartConfig(source="web", kinds=("title",)),)
