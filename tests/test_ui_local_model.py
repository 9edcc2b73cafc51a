"""Other base models from the command line: what is shown, what is answered, and what is not printed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.tiny_bases import tiny_base
from tests.tiny_training import write_facts
from ui.cli import main


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("local")
    tiny_base(folder / "llama", "llama")
    write_facts(folder / "facts.json")
    (folder / "docs").mkdir()
    (folder / "docs" / "a.txt").write_text("年假：入职满一年有五天，满十年有十天。", encoding="utf-8")
    return folder


def test_prompt_and_data_are_shown_with_any_template(
    place: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--model", str(place / "llama")]
    assert main(["prompt", "show", "年假", "--answer", "五天", *model, "--json"]) == 0
    own = json.loads(capsys.readouterr().out)
    assert own["tokens"][0] == "<s>" and sum(own["loss_mask"]) == len(" 五天 ") + 1
    assert main(["prompt", "show", "年假", "--answer", "五天", *model, "--template", "alpaca"]) == 0
    assert "+ assistant:content" in (text := capsys.readouterr().out) and "R/" in text
    shown = ["data", "show", str(place / "facts.json"), "--count", "1", *model, "--template", "default"]
    assert main(shown) == 0
    assert "Assistant:⟦入职满一年有五天，满十年有十天。</s>⟧" in capsys.readouterr().out


def training(place: Path) -> list[str]:
    return ["finetune", "--model-name-or-path", str(place / "llama"), "--dataset", str(place / "facts.json")]


def test_a_plan_names_the_models_own_layers(
    place: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = training(place)
    assert main([*command, "--finetuning-type", "lora", "--plan", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["model"] == "llama" and plan["trainable"] > 0 and plan["layout"]["packed"]
    assert main([*command, "--lora-target", "gate_up_proj", "--plan"]) == 1
    assert "gate_proj" in capsys.readouterr().err
    assert main([*command, "--stage", "rm", "--plan"]) == 1
    assert "ChatGLM" in capsys.readouterr().err


def test_what_cannot_be_trained_is_said_before_a_run_is_made(
    place: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*training(place), "--output-dir", str(tmp_path / "runs")]
    assert main([*command, "--finetuning-type", "ptuning"]) == 1
    assert "qlora" in capsys.readouterr().err
    assert main([*command, "--template", "chatglm3"]) == 1
    assert "<|user|>" in capsys.readouterr().err
    folder = tiny_base(
        tmp_path / "odd", "qwen3", template="{% for m in messages %}{{ m.content }}{% endfor %}x"
    )
    assert main([*command[:2], str(folder), *command[3:]]) == 1
    assert "--template alpaca" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_asking_prints_the_answer_and_nothing_of_the_libraries(place: Path, home: Path) -> None:
    assert main(["index", str(place / "docs"), "--kb", "d"]) == 0
    env = {
        **os.environ,
        "ZHIWEN_HOME": str(home),
        "ZHIWEN_GENERATOR_KIND": "local",
        "ZHIWEN_GENERATOR_MODEL": str(place / "llama"),
        "ZHIWEN_SEARCH_BUDGET_TOKENS": "100",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "ui", "ask", "年假有几天？", "--max-tokens", "8", "--json"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=home, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["generator"] == "llama (fp32)"
    assert done.stderr == "", "no bars, no advice"
