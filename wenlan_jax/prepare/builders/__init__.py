"""Named public data sets as TFDS builders in the schema of `data/records.py`; `registry.py` lists them by name."""
