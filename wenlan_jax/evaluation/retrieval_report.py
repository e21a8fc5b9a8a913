"""Retrieval results as a person reads them: a line, a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def one_line(scores: Mapping[str, float], split: str) -> str:
    """Writes recall both ways of one split as a line for the log.

    Args:
        scores: metrics by name.
        split: the split.

    Returns:
        The line.
    """
    parts = []
    for way in ("text_to_image", "image_to_text"):
        prefix = f"retrieval/{split}/{way}/recall_at_"
        recalls = {name.removeprefix(prefix): value for name, value in scores.items() if name.startswith(prefix)}
        found = " / ".join(f"{value:.1%}" for value in recalls.values())
        candidates = scores[f"retrieval/{split}/{way}/candidates"]
        parts.append(f"{way.replace('_', ' ')} {found} among {candidates:,.0f}")
    return f"{split}: recall@{'/'.join(recalls)} {', '.join(parts)}"


def table(scores: Mapping[str, float], splits: Sequence[str], ks: Sequence[int]) -> str:
    """Writes recall at each k both ways, beside chance.

    Args:
        scores: metrics by name.
        splits: one block of lines each.
        ks: of recall.

    Returns:
        The table.
    """
    lines = []
    for split in splits:
        lines.append(f"{split:<42}" + "".join(f"{f'recall@{k}':>12}" for k in ks))
        for way in ("text_to_image", "image_to_text"):
            at = f"retrieval/{split}/{way}"
            asked, among = (f"{scores[f'{at}/{name}']:,.0f}" for name in ("queries", "candidates"))
            query, answer = way.split("_to_")
            title = f"{query} to {answer}: {asked} {query}s, {among} {answer}s"
            lines.append(f"{title:<42}" + "".join(f"{scores[f'{at}/recall_at_{k}']:>12.1%}" for k in ks))
            lines.append(f"{'  by chance':<42}" + "".join(f"{scores[f'{at}/chance_recall_at_{k}']:>12.1%}" for k in ks))
    return "\n".join(lines)
