"""Many people asking at once: their requests join and leave between two steps of one model.

network.py   the forward pass over a cache of slots, with fused weights and grouped heads
lora.py      all LoRA adapters side by side; every row of a batch uses its own
cache.py     keys and values of every slot; a follow-up keeps what it shares with the last prompt
graph.py     how a decoding step is run: through kernels, through torch, captured or not
fast.py      one decoding step through our own Triton kernels (kernels/), with tiles.py and weights.py
sampling.py  logits -> ids
writing.py   ids -> text: whole characters, stop strings, the loop guard
config.py    how many at once, how much of each
engine.py    the thread that puts them together (read this file first)
"""
