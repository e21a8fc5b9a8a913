"""Where compiled programs are kept between starts: JAX's persistent compilation cache, made safe to share."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

import jax

from wenlan_jax.config import sections

AUTO, OFF = "auto", "off"
DEFAULT = Path("~/.cache/wenlan_jax/compiled")


def use_cache(settings: sections.CompilationConfig) -> Path | None:
    """Turns the cache of compiled programs on as configured; call it before the first compilation.

    A directory that JAX was told itself ($JAX_COMPILATION_CACHE_DIR) stays.

    Args:
        settings: the section `compilation` of the configuration.

    Returns:
        Its directory; None where it is off.

    Raises:
        OSError: if the directory cannot be made.
    """
    told = jax.config.values["jax_compilation_cache_dir"]
    if told:
        return Path(told)
    on_cpu = jax.default_backend() == "cpu"
    if settings.cache == OFF or (settings.cache == AUTO and on_cpu):
        return None
    directory = DEFAULT if settings.cache == AUTO else Path(settings.cache)
    # JAX's key of a program knows an accelerator's type but not the instructions of a CPU, and a program for others
    # dies of an illegal instruction.
    directory = directory.expanduser().absolute() / (f"cpu-{_instruction_set()}" if on_cpu else jax.default_backend())
    directory.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", settings.cache_above)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)  # time is the measure, not size
    return directory


def _instruction_set() -> str:
    """A short name for what this CPU can execute: equal names, equal instructions."""
    described = [platform.machine(), platform.processor()]
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = information.read_text(errors="replace").splitlines()
        described += sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    return hashlib.sha256("\n".join(described).encode()).hexdigest()[:12]
