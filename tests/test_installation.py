"""What setup.py asks for is what the packages offer, and the tests run with and without what is optional."""

from __future__ import annotations

import importlib.metadata
import re
import runpy
import sys
import types
from typing import Any

import pytest
from repository import ROOT


@pytest.fixture(scope="module")
def asked() -> dict[str, Any]:
    """The arguments of setup()."""
    found: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        setuptools = types.SimpleNamespace(
            setup=lambda **arguments: found.update(arguments), find_packages=lambda **_: []
        )
        patch.setitem(sys.modules, "setuptools", setuptools)  # which newer Pythons do not bring
        runpy.run_path(str(ROOT / "setup.py"))
    return found


@pytest.mark.parametrize("extra", ["gpu", "gpu12", "tpu"])
def test_the_installed_jax_has_the_extra_of_each_accelerator(asked: dict[str, Any], extra: str) -> None:
    """pip only warns of an extra that a package does not have, and installs a JAX for CPUs."""
    (requirement,) = asked["extras_require"][extra]
    wanted = re.search(r"\[(\w+)\]", requirement)
    assert wanted is not None
    assert wanted[1] in (importlib.metadata.metadata("jax").get_all("Provides-Extra") or [])


def test_every_requirement_is_bounded(asked: dict[str, Any]) -> None:
    """A library's next major version breaks what was tried with this one."""
    free = {"absl-py", "fonttools", "fsspec", "pyarrow", "pillow", "scikit-learn", "scipy"}  # stable, or by year
    everything = [*asked["install_requires"], *(one for extra in asked["extras_require"].values() for one in extra)]
    for requirement in everything:
        name = re.split(r"[\[<>=]", requirement)[0]
        assert ">=" in requirement and ("<" in requirement or name in free), requirement
