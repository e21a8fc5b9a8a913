"""Losses: pure functions of embeddings, each returning a sum over its rows."""
