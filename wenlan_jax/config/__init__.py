"""Configurations as their files see them: `get_config()` starts from `default()` and changes what it changes.

    from wenlan_jax import config

    def get_config():
        c = config.default()
        c.train.steps = 500
        return c

Settings and sections lie here. `tasks/schema.py` and `tasks/experiment.py` put a whole configuration together, above
the tasks; their functions are found under this name, too, and are imported when they are first asked for.
"""

from typing import Any

from wenlan_jax.util.late_import import LateCallable

_PLACES = {
    "experiment": ("Config", "ConfigError", "default", "parse", "load", "override", "from_json", "to_json"),
    "config_changes": ("completed",),
    "two_tower.presets": ("make_large", "make_small", "make_loops"),
}
"""Names that are found here, by their module in `tasks`. The presets are for files of earlier versions."""


def __getattr__(name: str) -> Any:
    for module, names in _PLACES.items():
        if name in names:
            return LateCallable(f"wenlan_jax.tasks.{module}:{name}").resolve()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
