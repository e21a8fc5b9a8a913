"""`wenlan report`: turns one run into a page that a person reads."""

from __future__ import annotations

import argparse
import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from wenlan_jax.report import page

DESCRIPTION = """\
Write one run as a page that a person reads: what it is, its figures with 95% intervals, curves, gallery, where its
time went, its configuration and what it recorded about its environment. One HTML file with everything inside, without
scripts. Works on a run that is under way, too; nothing but the page is written, and no accelerator is touched.
"""

EXAMPLES = """\
examples:
  wenlan report runs/quickstart
  wenlan report runs/quickstart --out=quickstart.html
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `wenlan report`."""
    parser.description, parser.epilog = DESCRIPTION, EXAMPLES
    parser.add_argument("workdir", type=Path, metavar="WORKDIR", help="directory of a run of `wenlan train`")
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"the page to write (default: WORKDIR/{page.NAME})")


def run(arguments: argparse.Namespace, fields: Sequence[str]) -> int:
    """Runs `wenlan report` and says where the page is.

    Args:
        arguments: the parsed arguments.
        fields: none.

    Returns:
        The exit status.
    """
    del fields
    with _errors_alone():  # what would be warned of stands on the page
        written = page.write(arguments.workdir, arguments.out)
    print(f"{written} written")
    return 0


@contextlib.contextmanager
def _errors_alone() -> Iterator[None]:
    log = logging.getLogger("wenlan_jax")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
