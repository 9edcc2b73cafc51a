"""Triton kernels of one decoding step: few launches, weights read once, nothing between them but small vectors.

nf4.py        4-bit weights -> numbers, inside the products
product.py    RMSNorm -> matrix product -> bias, adapter, SwiGLU, residual, in one kernel
attention.py  rotary, writing the cache and attention in pieces over the positions; then the pieces together

Imported on a GPU only, by `rag.chatglm3.engine.fast`.
"""
