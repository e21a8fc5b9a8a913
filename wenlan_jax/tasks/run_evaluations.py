"""What a training run and `wenlan eval` measure: the evaluations of the task, on splits that the data have."""

from __future__ import annotations

from wenlan_jax.config import sections
from wenlan_jax.core.composite import CompositeEvaluation
from wenlan_jax.core.evaluation import Evaluation
from wenlan_jax.data import sources
from wenlan_jax.data.text import Tokenizer
from wenlan_jax.tasks import experiment, registry
from wenlan_jax.tasks.run import Run
from wenlan_jax.tasks.shared_data import data_dir


def create(run: Run, tokenizer: Tokenizer) -> Evaluation:
    """Creates the evaluations that a configuration asks for.

    Args:
        run: the run; its task lists the evaluations.
        tokenizer: its tokenizer.

    Returns:
        The evaluation, or several as one.
    """
    asked = [one for one in registry.of(run.config).evaluations if one.when(run.config)]
    found = [one.make(run, tokenizer) for one in asked]
    return found[0] if len(found) == 1 else CompositeEvaluation(found)


def check(config: experiment.Config, training: bool = False) -> None:
    """Checks that the data have the splits, languages and kinds of caption that are to be measured.

    Args:
        config: the configuration.
        training: whether a training follows, so that `eval.splits` count where it evaluates on its way.

    Raises:
        ConfigError: for a split, language or kind that the data do not have.
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
                raise experiment.ConfigError(f"{field}: {error}") from error
            if registry.of(config).reads_captions:
                _check_texts(config.eval, source)


def _check_source(config: experiment.Config) -> None:
    try:
        sources.split_sizes(config.data.source, data_dir(config))
    except sources.SourceError as error:
        raise experiment.ConfigError(f"data.source: {error}") from error


def _check_texts(wanted: sections.EvalConfig, source: sources.Source) -> None:
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
            raise experiment.ConfigError(
                f"{field}: {source.name} has no text of {', '.join(map(repr, missing))}, but {has}"
            )
