"""Files, jobs, numbers and pages, for all of the package; without jax."""
