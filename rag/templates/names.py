"""The names of templates, in a file that imports nothing."""

NAMES = ("chatglm3", "chatglm2", "alpaca", "vicuna", "default")
"""What `--template` takes beside "auto"."""
