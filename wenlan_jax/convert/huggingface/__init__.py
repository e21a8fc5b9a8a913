"""Code that an export for transformers carries, and the script that runs such an export.

Nothing here is imported: the files `*_wenlan.py` are copied beside the weights, where `trust_remote_code=True` lets
transformers load them, and `run.py` is started as a program. They need torch and transformers, nothing of ours.
"""
