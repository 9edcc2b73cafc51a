"""Training data: registry, readers and writers of every format, checks, conversion."""
