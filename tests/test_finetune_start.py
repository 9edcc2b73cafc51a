"""Going on from an adapter of an earlier stage: found by name, continued exactly, and kept as the reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune import events, run
from finetune.adapters import get
from finetune.config import RunConfig, from_values
from finetune.methods import Trainee, attach, open_base, save
from finetune.plan import make_plan
from finetune.prepare import with_model
from finetune.start import REFERENCE, add_reference, made_at, reference, switched, with_start
from finetune.train import train
from kb.errors import ModelError, SettingsError
from tests.tiny_preferences import write_preferences
from tests.tiny_training import tiny_model, write_facts

IDS = torch.arange(5, 21)[None]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, the facts, and one finished run named first."""
    folder = tmp_path_factory.mktemp("start")
    tiny_model(folder / "model")
    write_facts(folder / "facts.json")
    write_preferences(folder)
    train(run.create(config_of(folder, name="first", learning_rate=5e-3)))
    return folder


def config_of(place: Path, **more: Any) -> RunConfig:
    values: dict[str, Any] = {
        "name": "next", "output_dir": str(place / "runs"), "model_name_or_path": str(place / "model"),
        "dataset": str(place / "facts.json"), "dataset_dir": str(place), "finetuning_type": "lora", "lora_rank": 4,
        "lora_target": "q_proj,down_proj", "device": "cpu", "max_steps": 4, "per_device_train_batch_size": 6,
        "gradient_accumulation_steps": 1, "sample_tokens": 2, "logging_steps": 1, "lr_scheduler_type": "constant",
    }  # fmt: skip
    return from_values(values | more)


def logits(trainee: Trainee) -> torch.Tensor:
    with trainee.plain_attention(), torch.no_grad():
        found: torch.Tensor = trainee.model(IDS).logits
    return found


def began(config: RunConfig) -> Trainee:
    config = with_start(config)
    return attach(open_base(config, folder=Path(config.data.model_name_or_path), device="cpu"), config=config)


def test_a_run_is_found_by_name_and_its_shape_holds(place: Path) -> None:
    config = with_start(
        config_of(place, adapter=str(place / "runs" / "first"), lora_rank=64, lora_target="all")
    )
    [folder] = (place / "runs").glob("first-*")
    assert config.data.adapter == str(folder / "adapter")
    assert (config.method.lora_rank, config.alpha) == (
        4,
        8,
    ) and config.method.lora_target == "down_proj,q_proj"
    assert made_at(str(folder), flag="-") == made_at(str(folder / "adapter"), flag="-") == folder / "adapter"
    assert with_start(config) == config, "looking again changes nothing"
    created = run.create(config_of(place, adapter=str(place / "runs" / "first")))
    assert json.loads((created / "config.json").read_text())["adapter"] == str(folder / "adapter")
    plan = make_plan(
        config_of(place, adapter=str(place / "runs" / "first"), lora_rank=64, lora_target="all"), rate=1e9
    )
    assert plan.trainable == make_plan(config_of(place), rate=1e9).trainable
    assert get([place / "runs"], "first", state=place).folder == folder / "adapter"


def test_it_goes_on_exactly_where_the_other_stopped(place: Path) -> None:
    """The same logits as the adapter that was saved, bit for bit; saved again, the same file."""
    from safetensors.torch import load_file

    adapter = made_at(str(place / "runs" / "first"), flag="-")
    trainee = began(config_of(place, adapter=str(adapter)))
    from rag.chatglm3.load import LoadConfig, load

    loaded = load(place / "model", adapters={"a": adapter}, config=LoadConfig(device="cpu"))
    with torch.no_grad():
        assert torch.equal(logits(trainee), loaded.model(IDS).logits)
    save(trainee, place / "again")
    one, two = (load_file(f / "adapter_model.safetensors") for f in (adapter, place / "again"))
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_the_reference_stays_what_it_was(place: Path) -> None:
    adapter = made_at(str(place / "runs" / "first"), flag="-")
    bare, trainee = began(config_of(place)), began(config_of(place, adapter=str(adapter)))
    names = set(trainee.trainable())
    begin, base = logits(trainee), logits(bare)
    with reference(trainee):
        assert torch.equal(logits(trainee), base), "without a copy it is the base"
    add_reference(trainee, adapter)
    assert set(trainee.trainable()) == names, "the copy is frozen"
    with torch.no_grad():
        for parameter in trainee.trainable().values():
            parameter.add_(0.05)
    moved = logits(trainee)
    with reference(trainee):
        assert torch.equal(logits(trainee), begin) and not trainee.trainable()
    with switched(trainee, ""):
        assert torch.equal(logits(trainee), base)
    assert torch.equal(logits(trainee), moved) and set(trainee.trainable()) == names
    save(trainee, place / "alone")
    assert not (place / "alone" / REFERENCE).exists(), "only the trained adapter is saved"


def test_dpo_and_rm_begin_at_the_adapter(place: Path) -> None:
    """The first loss of dpo is ln 2: policy and reference are one. rm takes the LoRA weights and makes a head."""
    more = {"adapter": str(place / "runs" / "first"), "dataset": "pairs", "max_steps": 2}
    result = train(run.create(config_of(place, stage="dpo", **more)))
    steps = [e for e in events.read(result.folder) if e["event"] == "step"]
    assert steps[0]["loss"] == pytest.approx(0.693147, abs=1e-5)
    about = json.loads((result.folder / "adapter" / "train.json").read_text())
    assert about["started_from"].endswith("/adapter")
    judged = train(run.create(config_of(place, name="judge", stage="rm", **more)))
    assert judged.adapter is not None
    with pytest.raises(ModelError, match="reward model"):
        with_start(config_of(place, adapter=str(judged.adapter)))


def test_a_run_that_trained_all_weights_is_a_base(place: Path) -> None:
    whole = train(run.create(config_of(place, name="whole", finetuning_type="full", max_steps=1)))
    config = with_start(config_of(place, model_name_or_path=str(place / "runs" / "whole")))
    assert config.data.model_name_or_path == str(whole.adapter)
    with pytest.raises(ModelError, match="another base"):
        began(config_of(place, model_name_or_path=str(whole.adapter), adapter=str(place / "runs" / "first")))


def test_without_a_model_the_adapters_own_base_is_taken(place: Path, tmp_path: Path) -> None:
    config = config_of(place, model_name_or_path="", adapter=str(place / "runs" / "first"))
    assert with_model(config, home=tmp_path).data.model_name_or_path == str(place / "model")


def test_what_cannot_be_gone_on_with_says_why(place: Path) -> None:
    first = str(place / "runs" / "first")
    with pytest.raises(SettingsError, match="merge it first"):
        with_start(config_of(place, adapter=first, finetuning_type="full"))
    with pytest.raises(ModelError, match="no finished run"):
        with_start(config_of(place, adapter=str(place / "runs" / "nobody")))
