"""`wenlan rerank`'s work: both models, split by split, then tables, rerank.json and rerank.html."""

from __future__ import annotations

import dataclasses
import time

import jax
import numpy as np
from jaxtyping import Float32

from wenlan_jax.applications import cascade, cascade_speed, graded, rerank_page
from wenlan_jax.applications.loaded_model import LoadedModel, ModelPlace, find, read
from wenlan_jax.applications.requests import RerankRequest
from wenlan_jax.config import sections
from wenlan_jax.data.loader import HostBatch
from wenlan_jax.data.sources import Source
from wenlan_jax.evaluation import graded_ranking
from wenlan_jax.evaluation.reranking import Pairs
from wenlan_jax.parallel import compilation_cache, distributed
from wenlan_jax.parallel.console import say
from wenlan_jax.tasks.single_tower.batch import trained
from wenlan_jax.tasks.single_tower.pair_scorer import PairScorer
from wenlan_jax.tasks.single_tower.spec import SINGLE_TOWER
from wenlan_jax.tasks.two_tower import embedded_split
from wenlan_jax.tasks.two_tower.spec import TWO_TOWERS
from wenlan_jax.util import json_files
from wenlan_jax.util.errors import WenlanError
from wenlan_jax.util.progress_line import ProgressLine

SCORES = ("rank", "itm")
"""Objectives of the single tower that train a score of pairs."""

READ_AT_ONCE = 256
"""Images between two looks at the clock."""


class CascadeError(WenlanError, ValueError):
    """Models or depths that no cascade can be made of; the message says which and what to do."""


def run(request: RerankRequest) -> dict[str, float]:
    """Re-ranks the splits of the two towers' configuration.

    Args:
        request: what was asked for.

    Returns:
        The figures, which rerank.json holds, too.

    Raises:
        CascadeError: for models or depths that no cascade can be made of.
        JudgementsError: for a file of judgements that cannot be used.
        CheckpointError: see `trained.find`.
        TaskError: for a model of another kind.
    """
    if not request.depths or min(request.depths) < 1:
        raise CascadeError(f"--top-k: numbers from 1 on are needed, got {list(request.depths)}")
    if request.speed_images < 0:
        raise CascadeError(f"--speed-images: a number from 0 on is needed, got {request.speed_images}")
    judged = None if request.judgements is None else graded.read(request.judgements)
    same = {field.name: str(getattr(request, field.name)) for field in dataclasses.fields(request)}
    distributed.start(
        sections.DistributedConfig(), same
    )  # the configuration lies in a checkpoint, which needs the devices
    two, single = _models(request)
    evaluator = embedded_split.Evaluator(two.run, two.tokenizer)
    result = {"two_towers/steps": float(two.step), "single_tower/steps": float(single.step)}
    config = two.run.config
    for number, split in enumerate(config.eval.final_splits):
        say(f"two towers embed {split} ...")
        embedded = evaluator.embed(two.params, two.batch_stats, split)
        found, measured = _split(request, two, single, split, embedded, judged)
        result |= {f"rerank/{split}/{name}": value for name, value in found.items()}
        if number == 0 and config.eval.gallery and jax.process_index() == 0:
            rerank_page.write(request.out / "rerank.html", embedded, measured, config.eval.gallery)
    if jax.process_index() == 0:
        json_files.write_figures(request.out / "rerank.json", result)
    return result


def _models(request: RerankRequest) -> tuple[LoadedModel, LoadedModel]:
    """The two towers and the single tower, which must read the same data."""
    first = ModelPlace("--workdir", request.workdir, request.step)
    second = ModelPlace("--single", request.single, request.single_step)
    two = find(first, request.fields, TWO_TOWERS)
    single = find(second, request.fields, SINGLE_TOWER)
    config, other = two.current.config, single.current.config
    if not trained(other).keys() & set(SCORES):
        raise CascadeError(
            f"--single: {request.single} was trained on {', '.join(trained(other))}, and a score of pairs is needed: "
            f"by one of the objectives {', '.join(SCORES)}"
        )
    if config.data.source != other.data.source:
        raise CascadeError(
            f"{request.workdir} reads {config.data.source} and {request.single} reads {other.data.source}; name the "
            "data that both are to rank with --config.data.source"
        )
    print(distributed.introduction(two.current.mesh), flush=True)
    compilation_cache.use_cache(config.compilation)
    return read(first, two), read(second, single)


def _split(
    request: RerankRequest,
    two: LoadedModel,
    single: LoadedModel,
    split: str,
    embedded: embedded_split.Embedded,
    judged: graded.Judged | None,
) -> tuple[dict[str, float], list[cascade.MeasuredWay]]:
    """The figures of a split, and both ways as they were measured; prints the tables."""
    ks, depths = two.run.config.eval.ks, sorted(set(request.depths))
    how = graded.protocol(two.run.config.eval.graded)
    grades = {} if judged is None else _grades(judged, embedded, how)
    scorer = PairScorer(single.run, single.tokenizer, single.run.config.eval.batch_size)
    texts = scorer.texts([text.text.text for text in embedded.texts])
    images = _read_images(scorer, embedded.source)

    def score(text_of_pair: Pairs, image_of_pair: Pairs) -> Float32[np.ndarray, " pairs"]:
        return scorer.scores(single.params, single.batch_stats, texts, images, text_of_pair, image_of_pair)

    score(np.zeros(1, np.int64), np.zeros(1, np.int64))  # compiled before anything is timed
    measured: list[cascade.MeasuredWay] = []
    figures: dict[str, float] = {}
    for way in cascade.ways(embedded, max(*depths, *ks, cascade.PROTOCOL.k, how.k)):
        measured.append(cascade.measure(way, depths, ks, score, scorer.batch_size, time.perf_counter))
        figures |= measured[-1].figures()
        say(f"{split}: {measured[-1].table()}")
    if grades:
        found = graded.figures(measured[0], grades, how)
        say(f"{split}: {graded.table(found, depths, how)}")
        figures |= found
    figures |= cascade_speed.latency(two, single, embedded, images, depths)
    figures |= _gap(two, single, split, min(request.speed_images, len(embedded.source)))
    say(cascade_speed.table(figures, depths))
    return figures, measured


def _grades(
    judged: graded.Judged, embedded: embedded_split.Embedded, how: graded_ranking.GradedProtocol
) -> graded.Numbered:
    """The judgements of a split's texts, which may be none."""
    grades = graded.of_split(judged, [text.text.text for text in embedded.texts], embedded.source)
    if grades:
        graded.check(grades, how)
    return grades


def _gap(two: LoadedModel, single: LoadedModel, split: str, images: int) -> dict[str, float]:
    if not images:
        return {}
    if not split.isidentifier():
        say(f"{split} is not a whole split, of which the speed would be compared on the first images; left out")
        return {}
    say(f"both models rank the first {images} images, for their speed ...")
    return cascade_speed.gap(two, single, split, images)


def _read_images(scorer: PairScorer, source: Source) -> HostBatch:
    """The single tower's fields of all images."""
    progress, parts = ProgressLine(), []
    for start in range(0, len(source), READ_AT_ONCE):
        parts.append(scorer.images(source, range(start, min(start + READ_AT_ONCE, len(source)))))
        if progress.due():
            say(f"reading regions: {start} of {len(source)} images, {start / progress.seconds:.0f}/s")
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
