"""Reinforcement learning from a reward: policy, value, reference and reward on one base, switched by adapter.

config.py       what can be set
prompts.py      examples -> prompts
policy.py       the four roles on one base: log-probabilities, values and scores of finished answers
logprobs.py     log-probability and entropy of written tokens, never all logits at once
reward.py       what scores an answer: the adapter and head of an rm run, or a function
rollout.py      answers through rag's engine, with the adapter as it stands now
advantages.py   reward of each token, generalised advantage estimation, whitening
objective.py    clipped objectives of policy and value
controller.py   how much distance from the reference costs; running mean of scores
loop.py         one step: generate, score, learn (read this file first)
train.py        a run from its folder to its adapter
plan.py, curves.py   what it will take; pictures
"""
