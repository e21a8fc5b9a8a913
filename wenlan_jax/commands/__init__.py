"""One file a command: `add_arguments` declares what it takes, `run` calls the package and prints.

Modules are light to import; what needs jax is imported when a command runs. `cli.COMMANDS` lists them.
"""

ADVICE = """\
Every field of the configuration can be set on the command line: --config.train.steps=500 or
--config.model.image.regions.grid='(1, 5)'. Start from a file in configs/."""
"""For the help of commands that read a configuration of training."""
