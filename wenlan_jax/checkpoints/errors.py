"""What can be wrong with a checkpoint.

What cannot be read falls into two kinds. A DamagedError says that the files do not hold what was written: reading them
again will not help, and the checkpoint before may be used instead. Any other CheckpointError may pass (a disk, rights,
memory) or is meant for a person (another model), and nothing is done about the checkpoint.
"""

from __future__ import annotations

import re

from wenlan_jax.util.errors import WenlanError


class CheckpointError(WenlanError, RuntimeError):
    """A checkpoint that is missing, cannot be read, is of another model, or could not be written."""


class DamagedError(CheckpointError):
    """The files of a checkpoint do not hold what was written.

    Attributes:
        step: the number of the checkpoint.
        reason: how the damage shows.
    """

    def __init__(self, message: str, step: int, reason: str) -> None:
        super().__init__(message)
        self.step = step
        self.reason = reason


_PASSING = re.compile(
    r"PERMISSION_DENIED|RESOURCE_EXHAUSTED|UNAVAILABLE|DEADLINE_EXCEEDED|CANCELLED|ABORTED|UNAUTHENTICATED"
    r"|os_error_code='(?!2')",  # 2: no such file
)
"""In the texts of TensorStore, whose errors are all of one class: the disk, rights or memory, not what a file holds."""


def is_damage(error: Exception) -> bool:
    """Says whether reading failed for what the files hold.

    When in doubt, no: a sound checkpoint must not be set aside.
    """
    if isinstance(error, OSError):
        return isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError)
    if _PASSING.search(str(error)):
        return False
    return isinstance(error, ValueError | KeyError) or type(error) is Exception


_ANNEX = re.compile(r"\[(source locations|tensorstore_spec)=.*")


def in_short(error: Exception) -> str:
    """Puts an error's text on one line of bounded length.

    It keeps where the text begins, and its end, where the system's reason is.
    """
    text = _ANNEX.sub("", " ".join(str(error).split())).strip()
    return text if len(text) <= 400 else f"{text[:150]} ... {text[-250:]}"
