"""Tasks: where a model, a loss, its part of the state and an evaluation meet. `registry.py` lists them."""
