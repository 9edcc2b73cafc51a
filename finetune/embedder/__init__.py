"""The small Chinese embedder that ships with zhiwen: its vocabulary, its training, its scores (docs/shipped-embedder.md)."""
