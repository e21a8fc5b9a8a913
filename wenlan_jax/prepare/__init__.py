"""From raw data to records: formats, cleaning, regions, public sets; without jax."""
