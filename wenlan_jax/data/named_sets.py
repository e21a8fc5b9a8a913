"""Data sets by name, which are built when they are first asked for.

Sources know their names alone. What builds them lies in higher layers and is imported when it is needed.
"""

from __future__ import annotations

import importlib
from pathlib import Path

SCENES, EMOJI, STAMPS, PUBLIC = "wenlan_scenes", "wenlan_emoji", "wenlan_stamps", "wenlan_public"

BUILDERS = {
    SCENES: "wenlan_jax.synthetic.builder:build",
    EMOJI: "wenlan_jax.prepare.builders.registry:build",
    STAMPS: "wenlan_jax.prepare.builders.registry:build",
    PUBLIC: "wenlan_jax.prepare.builders.registry:build",
}
"""By the first word of a name, `module:function` of what builds it: `(name, data_dir) -> directory`."""


def is_named(spec: str) -> bool:
    """Says whether `spec`, such as `wenlan_emoji/noto`, begins as the names of this package do."""
    return spec.split("/")[0] in BUILDERS


def is_drawn(spec: str) -> bool:
    """Says whether `spec` names one of the drawn sets, which need nothing from outside."""
    return spec.split("/")[0] == SCENES


def build(spec: str, data_dir: Path) -> Path:
    """Builds a named data set where it is absent.

    Args:
        spec: its name.
        data_dir: where data sets lie.

    Returns:
        Its directory.

    Raises:
        WenlanError: errors of its builder, which say what to fetch.
    """
    module, function = BUILDERS[spec.split("/")[0]].split(":")
    found: Path = getattr(importlib.import_module(module), function)(spec, data_dir)
    return found
