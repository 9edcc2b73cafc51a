"""QLoRA training at the speed of the card: a GLM's decoder layers as one function with a backward pass of our own.

Read `stack` first (forward, backward, what is kept), then `plate` (a frozen weight with LoRA in its border). `plain` says
in torch what each fused kernel computes; `launch` and `device` are the same in Triton.
"""
