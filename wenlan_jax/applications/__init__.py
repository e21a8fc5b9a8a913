"""Evaluation protocols: arrays in, figures out. Nothing here knows a model."""
