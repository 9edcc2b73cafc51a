"""Data sets to an adapter, and the proof that it helps. Imports rag and kb."""
