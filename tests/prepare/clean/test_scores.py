"""Correlation by embeddings: a known mixture is measured right, and the filter keeps weak pairs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import damage
import numpy as np
import pytest

from wenlan_jax.data import sources
from wenlan_jax.prepare.clean import job, options, scores
from wenlan_jax.prepare.clean.runners import Local
from wenlan_jax.prepare.clean.shards import CleanError

WEAK = 0.45
"""Cosine of correlated pairs: far below 1, yet above what chance gives in 64 dimensions."""


def embeddings(share: float, count: int, dim: int = 64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, texts and which pairs are correlated, at cosine WEAK; the others are noise."""
    rng = np.random.default_rng(0)
    image, noise = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in rng.standard_normal((2, count, dim)))
    noise -= (noise * image).sum(axis=1, keepdims=True) * image
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    correlated = np.arange(count) < share * count
    free = rng.standard_normal((count, dim))
    weak = WEAK * image + np.sqrt(1 - WEAK**2) * noise
    return image.astype(np.float32), np.where(correlated[:, None], weak, free).astype(np.float32), correlated


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("quantile", [0.5, 0.95])
def test_share_of_a_known_mixture(share: float, quantile: float) -> None:
    image, text, _ = embeddings(share, 20_000)
    true, shuffled = (
        scores._cosines(image, text, np.arange(20_000)),
        scores._cosines(image, text, np.roll(np.arange(20_000), 7)),
    )
    error = 4 * np.sqrt(2 * quantile * (1 - quantile) / 20_000)  # of a quantile and of a share, four deviations
    above = float((true > np.quantile(shuffled, quantile)).mean())
    assert above == pytest.approx(share + (1 - share) * (1 - quantile), abs=error)
    assert scores.correlated_share(true, shuffled, quantile) == pytest.approx(share, abs=error / quantile)


@pytest.fixture
def scored(plant: Any, tmp_path: Path) -> tuple[Path, Path, np.ndarray]:
    """A source of 200 pairs of two origins with embeddings, and which pairs are correlated."""
    rows = [plant.clean_record(n, id=str(n), source=("web", "news")[n % 2]) for n in range(200)]
    source = plant.write(tmp_path / "in", {"train": rows})
    image, text, correlated = embeddings(0.6, 200)
    (tmp_path / "embeddings").mkdir()
    np.save(tmp_path / "embeddings" / "train.images.npy", image)
    np.save(tmp_path / "embeddings" / "train.texts.npy", text)
    return source, tmp_path / "embeddings", correlated


def test_report_is_by_source_and_filter_keeps_weak_pairs(
    scored: tuple[Path, Path, np.ndarray], plant: Any, tmp_path: Path, configure: Callable[..., options.CleanOptions]
) -> None:
    source, arrays, correlated = scored
    report = scores.score(source, arrays, tmp_path / "scores", 0.95, 0)
    assert json.loads((tmp_path / "scores" / scores.REPORT_NAME).read_text()) == report
    assert (tmp_path / "scores" / scores.FIGURE_NAME).stat().st_size > 1000
    assert {name: of["pairs"] for name, of in report["sources"].items()} == {"web": 100, "news": 100}
    for of in report["sources"].values():
        assert of["correlated_share"] == pytest.approx(0.6, abs=0.06)
        assert sum(of["histogram"]) == sum(of["shuffled_histogram"]) == 100
    chosen = configure(
        scores__directories=(str(tmp_path / "scores"),), scores__quantile=0.9, text__chinese="off",
        language__action="off", duplicates__texts="off", leakage__text_similarity=0.0,
    )  # fmt: skip
    done = job.clean([source], tmp_path / "out", chosen, Local(0))
    left = np.array(sorted(int(record.id) for record in plant.read(tmp_path / "out", "train")))
    assert set(np.flatnonzero(correlated)) <= set(left)  # no weak pair goes
    noise = len(left) - correlated.sum()
    assert done.counts["texts_dropped"] == {"low_score": 80 - noise}
    assert noise <= 20  # a tenth of 80 is expected


def test_arrays_that_do_not_fit_are_named(
    scored: tuple[Path, Path, np.ndarray], tmp_path: Path, configure: Callable[..., options.CleanOptions]
) -> None:
    source, arrays, _ = scored
    with pytest.raises(CleanError, match="run `wenlan score`"):
        job.clean(
            [source], tmp_path / "out", configure(scores__directories=(str(tmp_path),), scores__quantile=0.5), Local(0)
        )
    np.save(arrays / "train.texts.npy", np.ones((199, 4), np.float32))
    with pytest.raises(CleanError, match=r"train.texts.npy: has shape \(199, 4\), but the split has 200 texts"):
        scores.score(source, arrays, tmp_path / "scores", 0.95, 0)


def test_shuffled_pairs_are_of_the_same_source_and_never_true() -> None:
    owners = np.array([0, 1, 0, 1, 2, 0], np.uint16)
    rows = np.array([0, 0, 1, 2, 3, 4, 5, 5])
    others = scores._others(rows, owners, np.random.default_rng(0))
    assert (owners[others] == owners[rows]).all()
    assert (others != rows)[rows != 4].all() and others[rows == 4] == [4]  # the only record of its source


BAD_ROWS = {"NaN": np.nan, "infinite": np.inf, "zero": 0.0, "beyond float32": 1e38}


@pytest.mark.parametrize("value", BAD_ROWS.values(), ids=BAD_ROWS.keys())
@pytest.mark.parametrize("name", ["images", "texts"])
def test_a_row_without_a_direction_costs_its_pairs_alone(
    scored: tuple[Path, Path, np.ndarray],
    plant: Any,
    tmp_path: Path,
    configure: Callable[..., options.CleanOptions],
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: float,
) -> None:
    source, arrays, _ = scored
    rows = np.load(arrays / f"train.{name}.npy")
    rows[[8, 30]] = value
    np.save(arrays / f"train.{name}.npy", rows)
    report = scores.score(source, arrays, tmp_path / "scores", 0.95, 0)
    assert f"train.{name}.npy: 2 of 200 rows, the first is row 8, are not finite or zero" in capsys.readouterr().err
    web, news = report["sources"]["web"], report["sources"]["news"]
    assert (news["pairs"], news["unscored"]) == (100, 0)
    assert (web["pairs"], web["unscored"]) == (98, 2)
    assert sum(web["histogram"]) == 98 and 90 <= sum(web["shuffled_histogram"]) <= 100
    assert all(np.isfinite(of["shuffled_quantiles"]).all() for of in report["sources"].values())
    assert web["correlated_share"] == pytest.approx(0.6, abs=0.08)
    chosen = configure(
        scores__directories=(str(tmp_path / "scores"),), scores__quantile=0.9, text__chinese="off",
        language__action="off", duplicates__texts="off", leakage__text_similarity=0.0,
    )  # fmt: skip
    done = job.clean([source], tmp_path / "out", chosen, Local(0))
    dropped = done.counts["texts_dropped"]
    assert dropped["no_score"] == 2
    assert dropped["no_score"] + dropped["low_score"] + len(plant.read(tmp_path / "out", "train")) == 200


def test_arrays_of_two_models_or_of_other_data_are_refused(
    scored: tuple[Path, Path, np.ndarray], tmp_path: Path
) -> None:
    source, arrays, _ = scored
    rows = np.load(arrays / "train.texts.npy")
    np.save(arrays / "train.texts.npy", rows[:, :32])
    with pytest.raises(CleanError, match="images of split train have 64 dimensions, texts 32"):
        scores.score(source, arrays, tmp_path / "scores", 0.95, 0)
    np.save(arrays / "train.texts.npy", rows.astype(str))
    with pytest.raises(CleanError, match="train.texts.npy"):
        scores.score(source, arrays, tmp_path / "scores", 0.95, 0)
    np.save(arrays / "train.texts.npy", rows)
    files = sources.identity(str(source), source.parent)
    for content, right in (
        ({"data": {"source": "x", "files": files}}, True),
        ({"data": {"source": "x", "files": files[1:]}}, False),
        ({"data": {"source": "x", "files": [[name, size + 1, time] for name, size, time in files]}}, False),
        ([], False),
        ({"data": 5}, False),
        ({"data": {"files": "x"}}, False),
    ):
        (arrays / scores.NOTE).write_text(json.dumps(content))
        if right:
            scores.score(source, arrays, tmp_path / "scores", 0.95, 0)
            continue
        with pytest.raises(CleanError, match=r"embeddings\.json"):
            scores.score(source, arrays, tmp_path / "scores", 0.95, 0)


@pytest.mark.parametrize("name", ["scores.json", "train.first.npy", "train.score.npy", "train.source.npy"])
@pytest.mark.parametrize("how", damage.BYTES)
def test_damaged_scores_are_refused_by_name(
    scored: tuple[Path, Path, np.ndarray],
    tmp_path: Path,
    configure: Callable[..., options.CleanOptions],
    name: str,
    how: str,
) -> None:
    source, arrays, _ = scored
    out = tmp_path / "scores"
    scores.score(source, arrays, out, 0.95, 0)
    damage.BYTES[how](out / name)
    chosen = configure(scores__directories=(str(out),), scores__quantile=0.9)
    with pytest.raises(CleanError, match=name.replace(".", r"\.")):
        job.clean([source], tmp_path / "out", chosen, Local(0))


def test_scores_of_two_calls_are_not_mixed(
    scored: tuple[Path, Path, np.ndarray], tmp_path: Path, configure: Callable[..., options.CleanOptions]
) -> None:
    """The report comes last: a call that is cut off leaves none."""
    source, arrays, _ = scored
    out = tmp_path / "scores"
    scores.score(source, arrays, out, 0.95, 0)
    damage.BYTES["a directory"](out / "train.shuffled.npy")
    with pytest.raises(OSError, match="shuffled"):
        scores.score(source, arrays, out, 0.95, 0)
    assert not (out / scores.REPORT_NAME).exists()
