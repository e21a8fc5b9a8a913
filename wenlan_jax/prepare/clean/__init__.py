"""Cleaning: packed records in, fewer and better packed records out, with every dropped item accounted for."""
