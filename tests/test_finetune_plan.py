"""The plan: right before anything is loaded, in words and as JSON; the command, its flags and the ready configs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune.config import RunConfig, from_values, option_types
from finetune.data.registry import read_registry
from finetune.memory import GIB, Layout, choose_layout, need, trainable_count
from finetune.methods import attach, open_base, resolve_targets
from finetune.plan import make_plan
from rag.chatglm3.shape import GlmShape, read_native
from tests.conftest import ROOT
from tests.tiny_training import tiny_model, write_facts
from ui.cli import main
from ui.train_options import HELP, read_toml

REAL = GlmShape(28, 4096, 32, 2, 128, 13_696, 65_024, 8192)
"""ChatGLM3-6B."""
CONFIGS = sorted((ROOT / "data" / "configs").glob("*.toml"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    tiny_model(folder / "model")
    write_facts(folder / "facts.json")
    return folder


def config_of(place: Path, **values: Any) -> RunConfig:
    base = {
        "output_dir": str(place / "runs"),
        "model_name_or_path": str(place / "model"),
        "dataset": str(place / "facts.json"),
        "dataset_dir": str(place),
        "device": "cpu",
    }
    return from_values({**base, **values})


@pytest.mark.parametrize(
    ("layout", "measured"),
    [
        (Layout(8192, recompute=True), 7.8),
        (Layout(16_384, recompute=True), 11.6),
        (Layout(8192), 45.8),
        (Layout(8192, compiled=True), 36.7),
        (Layout(8192, recompute=True, compiled=True), 7.9),
        (Layout(23_552, kernels=True, kept=28, resident=True), 71.66),
        (Layout(6144, kernels=True, kept=28, resident=True), 29.62),
        (Layout(6144, recompute=True, kernels=True), 6.94),
        (Layout(1024, kernels=True, kept=28), 7.26),
        (Layout(23_552, kernels=True, kept=28, resident=True, roomy=True), 98.21),
        (Layout(4096, recompute=True, kernels=True, kept=4), 7.36),
    ],
)
def test_memory_of_the_real_model_is_within_ten_percent_of_what_was_measured(
    layout: Layout, measured: float
) -> None:
    config = from_values({"finetuning_type": "qlora", "lora_rank": 16})
    found = need(REAL, config, layout=layout, dtype="bfloat16").total / GIB
    assert found == pytest.approx(measured, rel=0.10)


def test_the_card_decides_the_layout() -> None:
    config = from_values({"finetuning_type": "qlora", "lora_rank": 16})

    def on(gib: float) -> tuple[Layout, bool]:
        layout, found, fits = choose_layout(
            REAL, config, dtype="bfloat16", free=int(gib * GIB), longest=1024, wanted=8192, compiled=True
        )
        assert not fits or found.total <= gib * GIB
        return layout, fits

    assert on(79) == (Layout(8192, compiled=True), True)
    small, fits = on(7.5)
    assert fits and small.recompute and small.tokens >= 4096, "a card of 8 GB trains at full length"
    assert not on(3)[1]


@pytest.mark.parametrize(
    "values",
    [
        {"finetuning_type": "qlora", "lora_rank": 8},
        {"finetuning_type": "lora", "use_dora": True, "lora_target": "query_key_value,dense_4h_to_h"},
        {"finetuning_type": "freeze", "freeze_trainable_layers": 1},
        {"finetuning_type": "full"},
        {"finetuning_type": "ptuning", "pre_seq_len": 5},
        {"finetuning_type": "ptuning", "pre_seq_len": 5, "prefix_projection": True},
    ],
    ids=lambda v: "-".join(map(str, v.values())),
)
def test_trainable_weights_are_counted_without_loading(place: Path, values: dict[str, Any]) -> None:
    config = config_of(place, **values)
    trainee = attach(open_base(config, folder=place / "model", device="cpu"), config=config)
    counted = sum(p.numel() for p in trainee.trainable().values())
    assert trainable_count(read_native(place / "model"), config) == counted


def test_targets_by_every_name() -> None:
    assert resolve_targets("query_key_value,dense") == ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert resolve_targets("dense_h_to_4h, dense_4h_to_h") == ["gate_up_proj", "down_proj"]
    assert len(resolve_targets("all")) == 6 and resolve_targets("q_proj,all")[0] == "q_proj"


def test_a_plan_needs_no_weights(place: Path, tmp_path: Path) -> None:
    """Only config.json and the tokenizer are read."""
    for file in (place / "model").iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    plan = make_plan(config_of(place, model_name_or_path=str(tmp_path), num_train_epochs=2.5), rate=1e12)
    assert plan.fits and plan.examples == 12 and plan.steps == 3 and plan.per_step == 16
    assert plan.tokens > plan.trained_tokens > 0 and plan.seconds > 0 and plan.trainable > 0


def test_what_does_not_fit_says_what_would(place: Path) -> None:
    config = config_of(place, finetuning_type="full", cutoff_len=1024, gradient_checkpointing=False)
    small = config_of(place, finetuning_type="qlora", gradient_checkpointing=False)
    least = [make_plan(c, rate=1e12, free=1).need.total for c in (config, small)]
    between = sum(least) // 2
    assert least[0] > 2 * least[1]
    plan = make_plan(config, rate=1e12, free=between)
    assert not plan.fits and plan.changes_en and len(plan.changes_en) == len(plan.changes_zh)
    assert any("qlora" in c for c in plan.changes_en), plan.changes_en
    assert make_plan(small, rate=1e12, free=between).fits, "what was proposed fits"
    hopeless = make_plan(config, rate=1e12, free=1000)
    assert "GiB" in hopeless.changes_en[0]


def test_the_plan_on_the_command_line(place: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [
        "finetune", "--plan", "--model-name-or-path", str(place / "model"), "--dataset", str(place / "facts.json"),
        "--dataset-dir", str(place), "--lora-rank", "4", "--cutoff-len", "64", "--per-device-train-batch-size", "2",
        "--gpu", "cpu", "--no-packing", "--fp32",
    ]  # fmt: skip
    assert main([*flags, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["per_step"] == 8 and plan["layout"]["packed"] is False and plan["fits"] is True
    assert plan["need_total"] == sum(plan["need"].values()) and plan["hours"] >= 0
    assert main(flags) == 0
    said = capsys.readouterr().out
    assert "步数 6" in said and "放得下" in said and "GiB" in said


def test_a_run_on_the_command_line(place: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = place / "my-run.toml"
    file.write_text(
        'dataset_dir = "."\n[data]\nmodel_name_or_path = "model"\ndataset = "facts.json"\n[train]\ndevice = "cpu"\n'
        'learning-rate = 1e-3\n[method]\nfinetuning_type = "lora"\n',
        encoding="utf-8",
    )
    runs = place / "listed"
    assert (
        main(["finetune", str(file), "--output-dir", str(runs), "--max-steps", "2", "--sample-tokens", "4"])
        == 0
    )
    out = capsys.readouterr()
    assert "zhiwen ask --adapter" in out.out and "loss" in out.err and "Traceback" not in out.err
    [folder] = runs.iterdir()
    assert folder.name.startswith("my-run-") and (folder / "adapter" / "adapter_model.safetensors").is_file()
    assert json.loads((folder / "config.json").read_text())["model_name_or_path"] == str(place / "model")
    assert main(["finetune", "--list", "--output-dir", str(runs)]) == 0
    assert "完成" in capsys.readouterr().out
    assert main(["finetune", "--resume", str(folder)]) == 1
    assert "无法续训" in capsys.readouterr().err
    assert main(["finetune", "--stop", str(place)]) == 1, "that is no run"


def test_a_file_with_a_mistake_is_explained(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for text, said in (
        ("lora_rnk = 3", "lora_rank"),
        ("a = [", "bad.toml"),
        ("[a]\nseed = 1\n[b]\nseed = 2", "seed"),
    ):
        (tmp_path / "bad.toml").write_text(text)
        assert main(["finetune", str(tmp_path / "bad.toml"), "--plan"]) == 1
        assert said in capsys.readouterr().err


def test_every_option_has_help_in_both_languages() -> None:
    assert set(HELP) == set(option_types())
    assert all(zh and en for zh, en in HELP.values())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_ready_configs(path: Path) -> None:
    config = from_values(read_toml(path))
    assert config.name == path.stem and Path(config.data.dataset_dir) == ROOT / "data"
    if path.stem in ("zhouyi", "tiny-cpu", "tiny-dpo"):
        assert set(config.data.dataset.split(",")) <= set(read_registry(ROOT / "data"))
    if path.stem == "law":
        assert config.method.lora_rank == 256 and config.method.lora_target == "all"
    if path.stem == "medical":
        method, train = config.method, config.train
        assert (method.lora_rank, config.alpha, method.lora_dropout) == (16, 32, 0.1)
        assert (train.learning_rate, train.num_train_epochs, train.gradient_accumulation_steps) == (
            1e-4,
            3,
            16,
        )
        assert (train.warmup_ratio, config.data.cutoff_len) == (0.03, 1024)


def test_the_ready_configs_that_the_docs_name_are_there() -> None:
    assert {"law", "medical", "sanguo", "tiny-cpu", "tiny-dpo", "zhouyi"} <= {p.stem for p in CONFIGS}


@pytest.mark.slow
def test_tiny_cpu_goes_all_the_way(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The ready config, as a person runs it: the samples at the end are the answers of the data."""
    from finetune.data.load import load_sets
    from finetune.events import read

    path = ROOT / "data" / "configs" / "tiny-cpu.toml"
    assert main(["finetune", str(path), "--output-dir", str(tmp_path / "runs")]) == 0
    capsys.readouterr()
    [folder] = (tmp_path / "runs").iterdir()
    said = {e["prompt"]: e["text"] for e in read(folder) if e["event"] == "sample"}
    wanted = {e.question: e.answer for e in load_sets("service_qa", folder=ROOT / "data").examples}  # type: ignore[union-attr]
    right = sum(wanted[prompt] == text for prompt, text in said.items())
    assert len(said) == 3 and right >= 2, said
