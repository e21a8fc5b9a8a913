"""Boxes, features and class distributions of detectors: stored ones, and those of a detector that is run here."""
