"""Weights between PyTorch and Flax: rule tables read both ways, without either framework."""
