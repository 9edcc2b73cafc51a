"""A line on stderr that counts what is done; silent when stderr is not a terminal, or with --json."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def counting(label: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A callback (done, total) that draws; the line is cleared at the end."""
    if quiet or not sys.stderr.isatty():
        yield lambda done, total: None
        return

    def show(done: int, total: int) -> None:
        print(f"\r{label} {done}/{total}", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
