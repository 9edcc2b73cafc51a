"""The arithmetic of PPO against the same things written out slowly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from finetune.ppo import advantages as gae
from finetune.ppo.config import PpoConfig
from finetune.ppo.controller import KlCost, Running, shaped
from finetune.ppo.logprobs import word_logprobs
from finetune.ppo.objective import Before, objective

LENGTHS = [5, 1, 7, 3]


def drawn(seed: int) -> tuple[gae.Array, gae.Mask]:
    flat = np.random.default_rng(seed).normal(size=sum(LENGTHS))
    return gae.padded(flat, lengths=LENGTHS)


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (0.97, 1.0), (1.0, 0.0)])
def test_advantages_are_sums_of_discounted_surprises(gamma: float, lam: float) -> None:
    (rewards, mask), (values, _) = drawn(0), drawn(1)
    found = gae.estimate(rewards, values=values, mask=mask, gamma=gamma, lam=lam)
    for row, length in enumerate(LENGTHS):
        for t in range(length):
            wanted = 0.0
            for later in range(t, length):
                following = values[row, later + 1] if later + 1 < length else 0.0
                surprise = rewards[row, later] + gamma * following - values[row, later]
                wanted += (gamma * lam) ** (later - t) * surprise
            assert found.advantages[row, t] == pytest.approx(wanted)
            assert found.returns[row, t] == pytest.approx(wanted + values[row, t])
            if lam == 1.0:
                whole = sum(gamma ** (s - t) * rewards[row, s] for s in range(t, length))
                assert found.returns[row, t] == pytest.approx(whole), "lambda 1: what really came"
    assert not found.advantages[~mask].any() and not found.returns[~mask].any()


def test_every_token_pays_its_distance_and_the_last_gets_the_score() -> None:
    kl, _ = drawn(2)
    rewards = gae.token_rewards(kl, scores=[1.0, 2.0, 3.0, -4.0], lengths=LENGTHS, coefficient=0.1)
    for row, (length, score) in enumerate(zip(LENGTHS, [1.0, 2.0, 3.0, -4.0], strict=True)):
        for t in range(length):
            assert rewards[row, t] == pytest.approx(-0.1 * kl[row, t] + (score if t == length - 1 else 0))


def test_whitening_and_explained_variance() -> None:
    values, mask = drawn(3)
    white = gae.whiten(values, mask=mask)
    assert white[mask].mean() == pytest.approx(0) and white[mask].std() == pytest.approx(1)
    assert not white[~mask].any()
    small = gae.whiten(values * 1e-6, mask=mask, least=0.5)
    assert np.abs(small).max() < 1e-5, "noise is not blown up"
    assert gae.explained_variance(values, returns=values, mask=mask) == pytest.approx(1)
    assert gae.explained_variance(np.zeros_like(values), returns=values, mask=mask) == pytest.approx(0)


@pytest.mark.parametrize("clip_value", [0.2, 0.0])
def test_the_objective_and_its_gradient(clip_value: float) -> None:
    draws = torch.Generator().manual_seed(0)
    old, advantage, value, back, entropy = (torch.randn(40, generator=draws).double() for _ in range(5))
    new = (old + 0.4 * torch.randn(40, generator=draws)).double().requires_grad_()
    now = (value + 0.5 * torch.randn(40, generator=draws)).double().requires_grad_()
    config = PpoConfig(ppo_clip_value=clip_value, ppo_value_coef=0.3, ppo_entropy_coef=0.02)
    found = objective(
        new, entropy=entropy, values=now, before=Before(old, value, advantage, back), config=config
    )
    found.total.backward()
    policy, worth, clipped, moved = 0.0, 0.0, 0, 0.0
    slope, lean = [], []
    for i in range(40):
        gone = float(new[i].detach() - old[i])
        ratio, a = math.exp(gone), float(advantage[i])
        narrow = min(max(ratio, 0.8), 1.2)
        policy += -min(ratio * a, narrow * a)
        outside = narrow * a < ratio * a
        clipped += outside
        slope.append(0.0 if outside else -a * ratio)
        moved += ratio - 1 - gone
        v, was, wanted = float(now[i].detach()), float(value[i]), float(back[i])
        near = was + min(max(v - was, -0.2), 0.2) if clip_value else v
        far = (near - wanted) ** 2 > (v - wanted) ** 2
        worth += 0.5 * max((v - wanted) ** 2, (near - wanted) ** 2)
        lean.append(0.3 * ((near - wanted) * (near == v) if far else v - wanted))
    assert float(found.policy) == pytest.approx(policy) and float(found.value) == pytest.approx(worth)
    assert int(found.clipped) == clipped > 0 and float(found.moved) == pytest.approx(moved)
    assert float(found.total.detach()) == pytest.approx(policy + 0.3 * worth - 0.02 * float(entropy.sum()))
    assert new.grad is not None and now.grad is not None
    assert new.grad.tolist() == pytest.approx(slope) and now.grad.tolist() == pytest.approx(lean)


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_log_probabilities_in_chunks(chunk: int) -> None:
    draws = torch.Generator().manual_seed(1)
    hidden = torch.randn(10, 8, generator=draws).requires_grad_()
    weight = torch.randn(33, 8, generator=draws)
    targets = torch.randint(33, (10,), generator=draws)
    pull, push = torch.randn(10, generator=draws), torch.randn(10, generator=draws)
    logprobs, entropy = word_logprobs(hidden, weight, targets, temperature=0.7, chunk=chunk)
    ((logprobs * pull).sum() + (entropy * push).sum()).backward()
    given = hidden.grad
    plain = hidden.detach().clone().requires_grad_()
    logs = (plain @ weight.T / 0.7).log_softmax(-1)
    said, spread = logs.gather(1, targets[:, None])[:, 0], -(logs.exp() * logs).sum(-1)
    ((said * pull).sum() + (spread * push).sum()).backward()
    torch.testing.assert_close(logprobs, said)
    torch.testing.assert_close(entropy, spread)
    torch.testing.assert_close(given, plain.grad)


def test_the_cost_of_distance_is_steered() -> None:
    config = PpoConfig(ppo_kl_target=2.0, ppo_kl_horizon=100)
    cost = KlCost(0.1)
    cost.see(2.0, answers=10, config=config)
    assert cost.coefficient == pytest.approx(0.1)
    cost.see(9.0, answers=10, config=config)
    assert cost.coefficient == pytest.approx(0.1 * 1.02), "a fifth at the most, in a horizon"
    cost.see(1.9, answers=1000, config=config)
    assert cost.coefficient == pytest.approx(0.1 * 1.02 * 0.95)
    still = KlCost(0.1)
    still.see(9.0, answers=10, config=PpoConfig(ppo_kl_target=0))
    assert still.coefficient == 0.1


def test_scores_as_they_are_learned_from() -> None:
    scale = Running()
    rows = [[1.0, 2.0, 5.0], [0.0, -3.0], [8.0, 8.0, 1.0]]
    for row in rows:
        scale.see(row)
    flat = np.concatenate(rows)
    assert scale.mean == pytest.approx(flat.mean()) and scale.deviation == pytest.approx(flat.std())
    config = PpoConfig(ppo_score_clip=2.0, ppo_eos_penalty=0.5)
    assert shaped([5.0, -9.0, 1.0], ended=[True, False, True], scale=Running(), config=config) == [
        2.0,
        -2.5,
        1.0,
    ]
    normal = shaped([1.0, 3.0], ended=[True, True], scale=Running(), config=PpoConfig(ppo_score_norm=True))
    assert normal == pytest.approx([-1.0, 1.0])
