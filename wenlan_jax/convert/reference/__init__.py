"""Independent PyTorch implementations, for parity tests and side-by-side benchmarks only."""
