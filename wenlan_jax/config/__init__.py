"""Configurations as their files see them: `get_config()` starts from `default()` and changes what it changes.

    from wenlan_jax import config

    def get_config():
        c = config.default()
        c.train.steps = 500
        return c

Settings and sections lie here. `tasks/experiment.py` puts a whole configuration together, above the tasks; its
functions are found under this name, too, and are imported when they are first asked for.
"""

from typing import Any

from wenlan_jax.util.late_import import LateCallable

_FUNCTIONS = ("Config", "ConfigError", "default", "parse", "load", "override", "completed", "from_json", "to_json")
_PRESETS = ("make_large", "make_small", "make_loops")
"""What files of earlier versions find here; new ones take `tasks.two_tower.presets`."""


def __getattr__(name: str) -> Any:
    if name not in _FUNCTIONS + _PRESETS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "two_tower.presets" if name in _PRESETS else "experiment"
    return LateCallable(f"wenlan_jax.tasks.{module}:{name}").resolve()
