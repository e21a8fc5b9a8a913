"""What trained models are used for: embeddings on disk, re-ranking, pages of attention."""
