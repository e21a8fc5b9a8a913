"""`wenlan bench`: speed, memory and where they go; and the same step in PyTorch, side by side."""
