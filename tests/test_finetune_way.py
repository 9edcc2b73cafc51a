"""The whole way with real parts: documents -> data -> adapter -> comparison -> promotion -> an answer that names the adapter.

Only the teacher that writes the training data is scripted, behind a real server.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.loopback_model import Scripted, served
from tests.test_finetune_synthesis import DOCUMENTS, teacher
from ui.cli import main

CONFIG = """
name = "handbook"
[data]
model_name_or_path = "tiny"
dataset = "made.jsonl"
cutoff_len = 1024
[method]
finetuning_type = "lora"
lora_rank = 8
[train]
device = "cpu"
max_steps = 6
per_device_train_batch_size = 2
gradient_accumulation_steps = 1
learning_rate = 1e-3
sample_tokens = 1
"""


@pytest.mark.slow
def test_from_documents_to_a_promoted_adapter_that_answers(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for name, text in DOCUMENTS.items():
        (docs / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "handbook.toml").write_text(CONFIG, encoding="utf-8")
    for name, value in {"CONTEXT_TOKENS": "2048", "MAX_TOKENS": "16", "DEVICE": "cpu"}.items():
        monkeypatch.setenv(f"ZHIWEN_GENERATOR_{name}", value)
    assert main(["index", "docs", "--kb", "docs"]) == 0
    with served({"teacher": Scripted(teacher)}) as url:
        way = [
            "improve",
            "--kb",
            "docs",
            "--teacher",
            f"teacher@{url}",
            "--config",
            "handbook.toml",
            "--out",
            "work",
        ]
        assert main([*way, "--hold-out", "0.4", "--max-tokens", "16"]) == 0
    (run,) = (home / "runs").glob("handbook-*")
    about = json.loads(Path("work/report/report.json").read_text(encoding="utf-8"))
    assert about["names"] == ["base +kb", f"{run.name} +kb"] and about["questions"] >= 1
    kept = json.loads((home / "adapters" / "promoted.json").read_text(encoding="utf-8"))
    assert f"{run.name} +kb" in kept["measures"]["f1"]
    train = json.loads((run / "adapter" / "train.json").read_text(encoding="utf-8"))
    monkeypatch.setenv("ZHIWEN_GENERATOR_KIND", "chatglm3")
    monkeypatch.setenv("ZHIWEN_GENERATOR_MODEL", train["base_folder"])
    capsys.readouterr()
    assert main(["ask", "--json", "--trace", "员工入职满一年后享受带薪年休假几天？"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert run.name in json.dumps(answer["generator"], ensure_ascii=False) or answer["adapter"] == run.name


def test_a_teacher_needs_a_model_and_an_address(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["improve", "--kb", "k", "--teacher", "gpt", "--config", "c.toml", "--out", "w"]) == 1
    assert "gpt" in capsys.readouterr().err
