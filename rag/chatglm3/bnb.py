"""The one place where bitsandbytes is prepared.

On CPUs with AVX512-BF16, bitsandbytes (0.46 to 0.50 at least) repacks 4-bit weights in place at the first forward in
evaluation mode. After that, training crashes, merging gives wrong weights without a word, and layers whose input is no
multiple of 64 fail. Saying that the CPU cannot do it keeps the weights as they were loaded. A test fails when
bitsandbytes no longer needs this.
"""

from __future__ import annotations


def prepare_bitsandbytes() -> None:
    """Call before any quantised model is loaded. May be called again."""
    import logging

    logging.getLogger("bitsandbytes").setLevel(
        logging.ERROR
    )  # importing it says what optional part is missing
    import bitsandbytes.nn.modules as modules

    modules.has_avx512bf16 = lambda: False
