"""The converted model answers as the official code did: golden logits, greedy tokens, left padding, loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import SHARED

from rag.chatglm3.convert import convert

TINY = Path(__file__).parent / "golden" / "chatglm3-tiny"
MINI = SHARED / "golden" / "chatglm3-mini"
WITHIN = 1e-5


def load(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    target = tmp_path_factory.mktemp("parity") / "tiny"
    convert(TINY, target=target, without_tokenizer=True)
    return load(target)


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    return json.loads((TINY / "expected.json").read_text(encoding="utf-8"))


def close(ours: Any, theirs: list[float]) -> None:
    import torch

    assert (ours - torch.tensor(theirs)).abs().max() < WITHIN


def test_logits(tiny: Any, expected: dict[str, Any]) -> None:
    import torch

    assert len(expected["forward"]) == 4
    for case in expected["forward"]:
        with torch.inference_mode():
            logits = tiny(torch.tensor([case["input_ids"]])).logits[0]
        close(logits[-1], case["logits"])
        close(logits.logsumexp(-1), case["logsumexp_all"])
        assert logits.argmax(-1).tolist() == case["argmax_all"]


def test_left_padding(tiny: Any, expected: dict[str, Any]) -> None:
    import torch

    case = expected["left_padded_batch"]
    with torch.inference_mode():
        logits = tiny(
            torch.tensor(case["input_ids"]),
            attention_mask=torch.tensor(case["attention_mask"]),
            position_ids=torch.tensor(case["position_ids"]),
        ).logits[:, -1]
    close(logits, case["last_logits"])


def test_greedy(tiny: Any, expected: dict[str, Any]) -> None:
    import torch

    case = expected["greedy"]
    prompt = torch.tensor([case["prompt"]])
    out = tiny.generate(prompt, max_new_tokens=24, do_sample=False, eos_token_id=None)
    assert out[0, prompt.shape[1] :].tolist() == case["tokens"]


def test_loss(tiny: Any, expected: dict[str, Any]) -> None:
    import torch

    case = expected["loss"]
    with torch.inference_mode():
        loss = tiny(torch.tensor([case["input_ids"]]), labels=torch.tensor([case["labels"]])).loss
    assert abs(float(loss) - case["loss"]) < WITHIN


def test_mini_with_the_official_vocabulary(tmp_path: Path) -> None:
    import torch

    if not MINI.is_dir():
        pytest.skip(
            f"the mini checkpoint carries the official tokenizer, not ours to ship; looked for {MINI}"
        )
    convert(MINI, target=tmp_path / "mini", dtype="float32")
    model = load(tmp_path / "mini")
    from rag.chatglm3.chat import open_tokenizer
    from rag.types import Message

    tokenizer = open_tokenizer(tmp_path / "mini")
    cases = json.loads((MINI / "expected.json").read_text(encoding="utf-8"))["chats"]
    assert len(cases) == 6
    for case in cases:
        history = [Message(m["role"], m["content"], m.get("metadata", "")) for m in case["history"]]
        ids = tokenizer.prompt([*history, Message(case["role"], case["query"])]).ids
        assert ids == case["input_ids"]
        prompt = torch.tensor([ids])
        with torch.inference_mode():
            logits = model(prompt).logits[0]
        close(logits[-1][case["last_top20_ids"]], case["last_top20_logits"])
        close(logits.logsumexp(-1), case["logsumexp_all"])
        out = model.generate(prompt, max_new_tokens=16, do_sample=False, eos_token_id=None)
        written = out[0, len(ids) :].tolist()
        assert written == case["greedy"]
        assert tokenizer.decode(written) == case["greedy_text"]
