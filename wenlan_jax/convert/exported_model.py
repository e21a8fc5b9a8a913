"""What there is to export."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from wenlan_jax.convert import EXPORT_FORMATS
from wenlan_jax.data.text import Tokenizer
from wenlan_jax.tasks import experiment, registry
from wenlan_jax.util.errors import WenlanError


class ExportError(WenlanError, RuntimeError):
    """An export that was refused, or whose result does not agree with the JAX towers."""


@dataclasses.dataclass(frozen=True)
class ExportedModel:
    """A checkpoint that is to be exported.

    Attributes:
        config: the configuration that it was trained with.
        step: the number of the checkpoint.
        tower: reads the `params` and `batch_stats` of a tower, `image`, `text`, their `_momentum` copies, or `single`.
            It reads anew each time, so that an export holds no more than it is working on.
        shapes: what `tower` gives without its values: by the tower's name, leaves of which shape and type alone are
            read. Momentum copies are left out.
        momentum: whether there are key encoders.
        tokenizer: None where none was configured; only formats that hold one ask for it.
        result: the newest `result.json` of the run, empty without one.
        unused_layers: what an official file that the run started from holds beside BriVL's own weights.
        dtype: of the exported weights, `float32` or `float16`.
        scale: what the loss multiplies similarities by, one over the temperature.
        license: of the exported model, by the name that Hugging Face has for it; empty where nobody said.
        check: raises if what `tower` gives is not what the configuration describes, and names each leaf.
    """

    config: experiment.Config
    step: int
    tower: Callable[[str], dict[str, Any]]
    shapes: Mapping[str, Any]
    momentum: bool
    tokenizer: Tokenizer | None
    result: dict[str, float]
    unused_layers: dict[str, np.ndarray]
    dtype: str
    scale: float = 1.0
    license: str = ""
    check: Callable[[], None] = lambda: None

    @property
    def words(self) -> Tokenizer:
        """The tokenizer.

        Raises:
            ExportError: where there is none.
        """
        if self.tokenizer is None:
            model = registry.of(self.config).model
            without = [name for name, form in EXPORT_FORMATS.items() if form.model == model and not form.tokenizer]
            other = f", or export with --format={' or '.join(without)}" if without else ""
            raise ExportError(
                "this format holds a tokenizer, and this checkpoint was imported without one: import again with "
                f"--config.tokenizer.path{other}"
            )
        return self.tokenizer
