"""The names of figures: `protocol/split[/part...]/metric`, such as `retrieval/test/zh/text_to_image/recall_at_1`.

Evaluations give their figures such names; reports, curves and tables of sweeps read them with `parse`, and so show
those of a new evaluation, too. Beside a figure may stand that of a guess that saw nothing: see `MetricName.guesses`.
"""

from __future__ import annotations

from typing import NamedTuple

RETRIEVAL = "retrieval"
PRETRAIN = "pretrain"
VQA = "vqa"
"""Protocols that pages show in tables of their own."""

DIRECTIONS = ("text_to_image", "image_to_text")
FOLDS = "folds"
"""The first part of means over folds; no language is called so."""

ALL = "all"
"""The part that holds all languages together, where others are single ones."""

RECALL_AT = "recall_at_"

SHARES = ("accuracy", "recall", "official", "majority", "question_alone", "best_possible")
"""What the name of a metric that is a share contains."""

_GUESSES = ("chance_{metric}", "constant_{metric}")


class MetricName(NamedTuple):
    """A figure's name, taken apart.

    Attributes:
        protocol: the evaluation, such as `retrieval`, `pretrain` or `vqa`.
        split: of the data.
        part: what the figure is of within the split, such as a language, an objective or a direction; () for all of it.
        metric: such as `recall_at_1` or `loss`.
    """

    protocol: str
    split: str
    part: tuple[str, ...]
    metric: str

    def __str__(self) -> str:
        return "/".join((self.protocol, self.split, *self.part, self.metric))

    @property
    def direction(self) -> str:
        """The direction of a retrieval, `text_to_image` or `image_to_text`; '' where the figure has none."""
        return self.part[-1] if self.part and self.part[-1] in DIRECTIONS else ""

    @property
    def group(self) -> tuple[str, ...]:
        """The part without the direction."""
        return self.part[:-1] if self.direction else self.part

    @property
    def k(self) -> int:
        """How many of the best count in a recall; 0 for other metrics."""
        number = self.metric.removeprefix(RECALL_AT)
        return int(number) if number != self.metric and number.isdecimal() else 0

    @property
    def is_share(self) -> bool:
        """Whether the figure is a share of 1, shown in percent."""
        return any(word in self.metric for word in SHARES)

    @property
    def is_guess(self) -> bool:
        """Whether the figure is that of a guess."""
        return self.metric.startswith(("chance_", "constant_")) or self.metric in ("majority", "question_alone")

    @property
    def guesses(self) -> tuple[MetricName, ...]:
        """The names under which figures of guesses may stand beside this one."""
        names = [form.format(metric=self.metric) for form in _GUESSES]
        if self.metric == "accuracy":
            names += ["majority", "question_alone"]
        return tuple(self._replace(metric=name) for name in names)

    @property
    def title(self) -> str:
        """The name as a person reads it: `text to image recall@1 (test)`; the protocol before it, but for retrieval."""
        name = " ".join((*self.part, self.metric)).replace(RECALL_AT, "recall@").replace("_", " ")
        before = "" if self.protocol == RETRIEVAL else f"{self.protocol}: "
        return f"{before}{name} ({self.split})"

    def text(self, value: float) -> str:
        """Formats a value of the figure: shares in percent."""
        if self.is_share:
            return f"{value:.1%}"
        return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"


def parse(name: str) -> MetricName | None:
    """Takes a figure's name apart.

    Args:
        name: such as `retrieval/test/zh/text_to_image/recall_at_1`.

    Returns:
        Its parts; None where it is no name of an evaluation's figure.
    """
    protocol, *rest = name.split("/")
    if len(rest) < 2 or not all((protocol, *rest)):
        return None
    return MetricName(protocol, rest[0], tuple(rest[1:-1]), rest[-1])
