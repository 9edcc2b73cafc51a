"""Documents to a knowledge base that can be searched. Imports nothing else of zhiwen."""
