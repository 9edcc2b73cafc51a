"""Libraries that talk while a model is loaded: their bars and advice are not for the people who ask questions."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Inside, loading prints nothing of its own: no bars, no missing optional packages, no names that will change.

    Real warnings stay; errors are raised as ever.
    """
    import logging

    from transformers.utils import logging as transformers_logging

    logging.getLogger("bitsandbytes").setLevel(
        logging.ERROR
    )  # it misses an optional package aloud when imported
    transformers_logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by an old name
        yield
