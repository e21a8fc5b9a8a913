"""The layouts raw data comes in, one module a family, each with its traps; `registry.py` lists them by name."""
