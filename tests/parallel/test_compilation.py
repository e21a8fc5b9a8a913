"""The persistent compilation cache: a second start compiles nothing anew."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
import jax
import jax.numpy as jnp
from wenlan_jax.parallel import compilation_cache as compilation
from wenlan_jax.config import sections as schema

hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event) if event.endswith("cache_hits") else None)
at = compilation.use_cache(schema.CompilationConfig(cache=sys.argv[1], cache_above=0.0))
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((8, 8))).block_until_ready()
print(at, len(hits))
"""


def start(cache: str, **environment: str) -> tuple[str, int]:
    """The directory in use and the number of programs taken from it, of a fresh process."""
    without = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_COMPILATION", "JAX_PERSISTENT"))}
    command = [sys.executable, "-c", PROGRAM, cache]
    done = subprocess.run(command, env={**without, **environment}, capture_output=True, text=True, check=True)
    directory, hits = done.stdout.split()
    return directory, int(hits)


def entries(directory: Path) -> set[str]:
    return {file.name for file in directory.rglob("*-cache")}


def test_a_second_start_compiles_nothing_anew(tmp_path: Path) -> None:
    directory, hits = start(str(tmp_path))
    kept = entries(tmp_path)
    assert Path(directory).parent == tmp_path  # one folder for each kind of CPU
    assert Path(directory).name.startswith("cpu-")
    assert kept and not hits
    _, hits = start(str(tmp_path))
    assert hits
    assert entries(tmp_path) == kept


def test_no_cache_on_a_cpu_by_itself_nor_when_off(tmp_path: Path) -> None:
    for choice in ("auto", "off"):
        assert start(choice, HOME=str(tmp_path)) == ("None", 0)
    assert not list(tmp_path.iterdir())


def test_a_directory_that_jax_was_told_stays(tmp_path: Path) -> None:
    directory, _ = start("off", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "told"))
    assert directory == str(tmp_path / "told")
