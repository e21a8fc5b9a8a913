"""Protocols that measure the single tower, one a file."""
