"""Everything between a file on disk and a batch of arrays. Nothing in this folder imports jax."""
