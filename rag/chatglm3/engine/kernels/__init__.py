"""Triton kernels of one decoding step: few launches, weights read once, nothing between them but small vectors.

nf4.py        4-bit weights -> numbers
single.py     one row: RMSNorm -> product -> bias, adapters, SwiGLU, residual, in one kernel
four_bits.py  the same with nf4 weights
several.py    many rows: the same on tensor cores
adapters.py   LoRA inside those kernels
attention.py  rotary, writing the cache and attention in pieces over the positions; then the pieces together

Imported on a GPU only, by `rag.chatglm3.engine.fast`.
"""
