"""Configurations as their files see them: `get_config()` starts from `default()` and changes what it changes.

    from wenlan_jax import config

    def get_config():
        c = config.default()
        c.train.steps = 500
        return c

What a configuration is made of lies here, and what puts it together in `tasks/experiment.py`, above the tasks; it is
imported when it is first called.
"""

from wenlan_jax.util.late import late

default = late("wenlan_jax.tasks.experiment:default")
parse = late("wenlan_jax.tasks.experiment:parse")
load = late("wenlan_jax.tasks.experiment:load")
from_json = late("wenlan_jax.tasks.experiment:from_json")
make_large = late("wenlan_jax.tasks.two_tower.presets:make_large")
make_small = late("wenlan_jax.tasks.two_tower.presets:make_small")
make_loops = late("wenlan_jax.tasks.two_tower.presets:make_loops")
