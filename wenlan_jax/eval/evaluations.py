"""What a training run and `wenlan eval` measure, by task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxtyping import PyTree

from wenlan_jax import config as configs
from wenlan_jax import schema
from wenlan_jax.data import sources
from wenlan_jax.data.text import Tokenizer
from wenlan_jax.eval import evaluate, gallery_queries, ranks, report
from wenlan_jax.eval.evaluation import Evaluation
from wenlan_jax.tasks.run import Run
from wenlan_jax.training_data import data_dir


class Retrieval:
    """Retrieval by two towers, both ways."""

    what = "retrieval"

    def __init__(self, run: Run, tokenizer: Tokenizer) -> None:
        self._config = run.config
        self._evaluator = evaluate.Evaluator(run, tokenizer)

    def score(self, params: PyTree, batch_stats: PyTree, split: str) -> tuple[dict[str, float], evaluate.Scored]:
        """See `Evaluator.score`."""
        return self._evaluator.score(params, batch_stats, split)

    def one_line(self, scores: Mapping[str, float], split: str) -> str:
        """See `report.one_line`."""
        return report.one_line(scores, split)

    def table(self, scores: Mapping[str, float], splits: Sequence[str]) -> str:
        """See `report.table`."""
        return report.table(scores, splits, self._config.eval.ks)

    def write_pages(self, out: Path, found: Sequence[evaluate.Scored]) -> None:
        """The ranks of all queries of each split, and the gallery of the first one."""
        for one in found:
            ranks.write(out, one.split, one.ranks)
        gallery_queries.write_gallery(out, self._config, [one.embedded for one in found])


def check(config: schema.Config, training: bool = False) -> None:
    """Raises ConfigError for a split, language or kind of text that the data do not have.

    training: before one, so that `eval.splits` count where it evaluates on its way.
    """
    named = {"eval.final_splits": config.eval.final_splits}
    if training and 0 < config.eval.every < config.train.steps:
        named["eval.splits"] = config.eval.splits
    if any(named.values()):
        _check_source(config)
    for field, splits in named.items():
        for split in splits:
            try:
                source = sources.open_source(config.data.source, split, data_dir(config))
            except sources.SourceError as error:
                raise configs.ConfigError(f"{field}: {error}") from error
            if config.task != "vqa":  # whose texts are questions
                _check_texts(config.eval, source)


def _check_source(config: schema.Config) -> None:
    try:
        sources.split_sizes(config.data.source, data_dir(config))
    except sources.SourceError as error:
        raise configs.ConfigError(f"data.source: {error}") from error


def _check_texts(wanted: schema.Eval, source: sources.Source) -> None:
    """Reads records until every language and kind that is wanted was seen; those that follow need not be read."""
    sought = {"eval.languages": set(wanted.languages), "eval.kinds": set(wanted.kinds)}
    seen: dict[str, set[str]] = {field: set() for field in sought}
    for row in range(len(source)):
        for text in source[row].texts:
            seen["eval.languages"].add(text.language)
            seen["eval.kinds"].add(text.kind)
        if all(values <= seen[field] for field, values in sought.items()):
            return
    for field, values in sought.items():
        if missing := sorted(values - seen[field]):
            has = ", ".join(map(repr, sorted(seen[field]))) or "none"
            raise configs.ConfigError(
                f"{field}: {source.name} has no text of {', '.join(map(repr, missing))}, but {has}"
            )


def create(run: Run, tokenizer: Tokenizer) -> Evaluation:
    """The evaluation of a run's task."""
    if run.config.task not in schema.SINGLE_TASKS:
        return Retrieval(run, tokenizer)
    from wenlan_jax.eval.single import create as of_single_tower  # the other tasks need none of it

    return of_single_tower(run, tokenizer)
