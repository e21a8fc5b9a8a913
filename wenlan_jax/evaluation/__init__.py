"""Protocols in NumPy: retrieval, ranking, questions, statistics, tables and galleries."""
