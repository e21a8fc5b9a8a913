"""Recall of each language, one line a language: both ways at every k, and the average of the papers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wenlan_jax.evaluation import metric_names, retrieval

WAYS = ("text_to_image", "image_to_text")
"""Both ways of retrieval, as in the names of metrics."""

_NAME, _CELL = 14, 8


def languages_in(figures: Mapping[str, float]) -> list[str]:
    """Lists the languages that have an average recall.

    Args:
        figures: by `<language>/<name>`.

    Returns:
        The languages, sorted.
    """
    found = [name.split("/") for name in figures if name.endswith("/average_recall")]
    return sorted(parts[0] for parts in found if len(parts) == 2 and parts[0] != metric_names.FOLDS)


def table(figures: Mapping[str, float], ks: Sequence[int]) -> str:
    """Writes recall by language: a line for all texts together, then one a language, in percent.

    A language's texts are searched among themselves, so that its figures are not those of a part of the whole.

    Args:
        figures: by `<name>` and `<language>/<name>`.
        ks: the ranks up to which a hit counts.

    Returns:
        The table; "" where there are no languages.
    """
    languages = languages_in(figures)
    if not languages:
        return ""
    titles = "".join(f"{way.replace('_', ' '):>{_CELL * len(ks)}}" for way in WAYS)
    head = "".join(f"{f'@{k}':>{_CELL}}" for _ in WAYS for k in ks)
    lines = [" " * _NAME + titles, f"{'recall':<{_NAME}}{head}{'average':>{_CELL + 2}}"]
    for name, prefix in [("all texts", ""), *((language, f"{language}/") for language in languages)]:
        recalls = [figures[f"{prefix}{way}/recall_at_{k}"] for way in WAYS for k in ks]
        cells = "".join(f"{100 * value:>{_CELL}.1f}" for value in recalls)
        lines.append(f"{name:<{_NAME}}{cells}{100 * figures[f'{prefix}average_recall']:>{_CELL + 2}.1f}")
    return "\n".join(lines)


def averages(figures: Mapping[str, float], trained_on: str, folds: int) -> str:
    """Writes the papers' row of averages, see `retrieval.average_table`.

    Args:
        figures: by `<language>/<name>`, and by `folds/<language>/<name>` where folds were measured.
        trained_on: the languages trained on, for the name of the row.
        folds: how many folds were measured.

    Returns:
        A row for the whole, and one for the mean over folds where these were measured.
    """
    rows = {f"trained on {trained_on}": figures}
    within = {
        name.removeprefix(f"{metric_names.FOLDS}/"): value
        for name, value in figures.items()
        if name.startswith(f"{metric_names.FOLDS}/")
    }
    if within:
        rows[f"mean of {folds} folds"] = within
    return retrieval.average_table(rows, languages_in(figures))
