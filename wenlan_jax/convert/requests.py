"""What `wenlan import` and `wenlan export` can be asked for. Free of jax, as the command line reads it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from wenlan_jax.config.options import REQUIRED, option
from wenlan_jax.convert import EXPORT_FORMATS, IMPORT_FORMATS


@dataclasses.dataclass(frozen=True)
class ImportRequest:
    """What to import."""

    format: str = option(REQUIRED, "layout of the weights", among=lambda: tuple(IMPORT_FORMATS))
    source: Path = option(REQUIRED, "a file or directory of weights", metavar="PATH")
    out: Path = option(REQUIRED, "directory to write or to add to")
    tower: Literal["image", "text", "both"] = option("both", "of a format that gives both")
    trust_pickle: bool = option(False, "run the code that a pickled file may contain")
    replace: bool = option(False, "overwrite what an earlier import into OUT took over")


@dataclasses.dataclass(frozen=True)
class ExportRequest:
    """What to export."""

    workdir: Path = option(REQUIRED, "directory of a run of `wenlan train`, or of an import")
    format: str = option(REQUIRED, "of the exported files", among=lambda: tuple(EXPORT_FORMATS))
    out: Path = option(REQUIRED, "directory to write; must not exist")
    step: int | None = option(None, "the checkpoint to export", low=0, usual="the newest")
    dtype: Literal["float32", "float16"] = option("float32", "of the written weights")
    tolerance: float | None = option(
        None,
        "largest allowed difference of a coordinate",
        low=0,
        high=2,
        usual="1e-4 in float32, more in float16 for its rounding",
    )
    license: str = option(
        "",
        "of the exported model, for its card, by Hugging Face's name such as apache-2.0",
        metavar="NAME",
        usual="unknown",
    )
