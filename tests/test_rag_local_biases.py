"""An adapter that trained biases changes its base for everybody: PEFT writes them into it and leaves them there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_chatglm3 import converted

from kb.errors import GenerationError
from rag.chatglm3.load import LoadConfig
from rag.generate.local import LocalGenerator
from rag.models import load_other
from rag.types import GenerateOptions, Message


def test_only_the_adapter_that_changed_the_base_answers(tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import GlmForCausalLM

    base = converted(tmp_path / "glm")
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", bias="lora_only")
    made: Any = get_peft_model(GlmForCausalLM.from_pretrained(base), config)
    for parameter in made.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.4)
    made.save_pretrained(tmp_path / "biased")
    loaded = load_other(base, adapters={"biased": tmp_path / "biased"}, config=LoadConfig(device="cpu"))
    with LocalGenerator(loaded) as generator:
        ask = [Message("user", "你好")]
        with pytest.raises(GenerationError, match="'biased' changed the base's own biases"):
            list(generator.stream(ask, options=GenerateOptions(max_tokens=4)))
        pieces = list(generator.stream(ask, options=GenerateOptions(max_tokens=4, adapter="biased")))
    assert pieces[-1].tokens == 4
