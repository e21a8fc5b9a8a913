"""wenlan_jax: train, reproduce, study and ship BriVL and its family in JAX.

This file imports nothing, so that data workers can import the package without jax.
"""

__version__ = "0.1.0"
