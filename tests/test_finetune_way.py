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
dataset_dir = "."
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
    assert main(["index", "docs", "--kb", "docs"]) == 0
    with served({"teacher": Scripted(teacher)}) as url:
        for name, value in {"KIND": "openai", "BASE_URL": url, "MODEL": "teacher"}.items():
            monkeypatch.setenv(f"ZHIWEN_GENERATOR_{name}", value)
        made = ["data", "synthesize", "--from-kb", "docs", "--out", "made.jsonl", "--hold-out", "0.4"]
        assert main(made) == 0
    (tmp_path / "handbook.toml").write_text(CONFIG, encoding="utf-8")
    assert main(["finetune", "handbook.toml", "--output-dir", str(home / "runs")]) == 0
    (run,) = (home / "runs").glob("handbook-*")
    train = json.loads((run / "adapter" / "train.json").read_text(encoding="utf-8"))
    for name, value in {
        "KIND": "chatglm3", "MODEL": train["base_folder"], "CONTEXT_TOKENS": "2048", "MAX_TOKENS": "16", "DEVICE": "cpu",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"ZHIWEN_GENERATOR_{name}", value)
    monkeypatch.delenv("ZHIWEN_GENERATOR_BASE_URL")
    asked = ["--questions", "made.questions.jsonl", "--kb", "docs", "--retrieval", "on", "--max-tokens", "16"]
    assert main(["compare", "--adapters", run.name, *asked, "--out", "report"]) == 0
    about = json.loads(Path("report/report.json").read_text(encoding="utf-8"))
    assert about["names"] == ["base +kb", f"{run.name} +kb"] and about["questions"] >= 1
    assert main(["adapters", "promote", run.name, "--comparison", "report/report.json"]) == 0
    kept = json.loads((home / "adapters" / "promoted.json").read_text(encoding="utf-8"))
    assert f"{run.name} +kb" in kept["measures"]["f1"]
    capsys.readouterr()
    assert main(["ask", "--json", "--trace", "员工入职满一年后享受带薪年休假几天？"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert run.name in json.dumps(answer["generator"], ensure_ascii=False) or answer["adapter"] == run.name
