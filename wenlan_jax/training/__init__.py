"""The training loop and what every command that touches a model sets up."""
