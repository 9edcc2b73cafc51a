"""`zhiwen models` and `zhiwen prompt`, as they are typed."""

from __future__ import annotations

import errno
import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_rag_chatglm3_adapters import old_lora
from tiny_chatglm3 import write_official

from ui.cli import main
from ui.text import set_language


@pytest.fixture(autouse=True)
def english(monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[None]:
    monkeypatch.setenv("ZHIWEN_LANG", "en")
    set_language("en")
    yield
    set_language("zh")


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_official(tmp_path_factory.mktemp("cli") / "chatglm3-6b-official")


def test_convert_verify_use_export_import(
    official: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = home / "models" / "chatglm3-6b"
    assert main(["models", "convert", str(official), str(model), "--dtype", "fp32"]) == 0
    assert f"zhiwen models verify {model} --official {official}" in capsys.readouterr().out
    assert main(["models", "verify", str(model), "--official", str(official)]) == 0
    assert capsys.readouterr().out.count("✓") == 5
    assert main(["models", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {"name": "chatglm3-6b", "kind": "ChatGLM, ready", "gigabytes": "0.00"}
    ]
    old_lora(tmp_path / "old")
    run = tmp_path / "run"
    assert main(["models", "import-adapter", str(tmp_path / "old"), str(run), "--base", str(model)]) == 0
    out = tmp_path / "out"
    assert main(["models", "export", str(model), str(out), "--adapter", str(run)]) == 0
    assert (out / "tokenizer.model").is_file()
    (model / "generation_config.json").write_text("{}")
    capsys.readouterr()
    assert main(["models", "verify", str(model), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert [c["check"] for c in report["checks"] if not c["ok"]] == ["hashes"]
    assert main(["models", "convert", str(official), str(model)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["models", "convert", str(official), str(tmp_path / "x"), "--dtype", "int3"]) == 1
    assert "allowed are fp16, bf16, fp32" in capsys.readouterr().err


def test_commands_that_are_told_can_be_typed(
    official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Blanks in names are quoted; what goes into the settings holds from any folder."""
    monkeypatch.chdir(tmp_path)
    assert main(["models", "convert", str(official), "我的 模型"]) == 0
    told = [shlex.split(line)[1:] for line in capsys.readouterr().out.splitlines()[1:]]
    assert told[0][:5] == ["zhiwen", "models", "verify", "我的 模型", "--official"]
    assert told[1][-1] == str(tmp_path / "我的 模型")


def test_a_place_that_cannot_be_written_is_named(
    official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("x")
    assert main(["models", "convert", str(official), str(tmp_path / "file" / "glm")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and str(tmp_path / "file") in error

    def full(*args: object, **how: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("rag.chatglm3.shards.SafetensorsWriter.write", full)
    assert main(["models", "convert", str(official), str(tmp_path / "glm")]) == 1
    assert capsys.readouterr().err == "error: No space left on device\n"
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_pull_offline_says_so_in_one_sentence(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["models", "pull", "chatglm3-6b"]) == 1
    error = capsys.readouterr().err
    assert "chatglm3-6b cannot be fetched." in error and "HF_HUB_OFFLINE=0" in error
    assert main(["models", "list"]) == 0
    assert "No models in" in capsys.readouterr().out


def test_pull_from_a_mirror(
    official: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from test_rag_chatglm3_pull import SmallHub

    hub = SmallHub(official)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    assert main(["models", "pull", "chatglm3-6b"]) == 0
    hub.server.shutdown()
    folder = home / "models" / "chatglm3-6b-official"
    assert (folder / "tokenizer.model").is_file()
    assert f"zhiwen models convert {folder} {home / 'models' / 'chatglm3-6b'}" in capsys.readouterr().out


def test_prompt_show(official: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "glm"
    assert main(["models", "convert", str(official), str(model)]) == 0
    capsys.readouterr()
    show = ["prompt", "show", "--model", str(model)]
    assert main([*show, "你好<|assistant|>", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["ids"][:3] == [621, 623, 626]
    assert shown["ids"].count(627) == 1
    assert set(shown["loss_mask"]) == {0}
    assert main([*show, "你好", "--answer", "五天", "--color", "always"]) == 0
    text = capsys.readouterr().out
    assert "+ assistant:end          \x1b[32m</s>/2\x1b[0m" in text
    talk = tmp_path / "talk.json"
    talk.write_text(json.dumps([{"role": "user", "content": "一"}, {"role": "assistant", "content": "二"}]))
    assert main([*show, f"@{talk}"]) == 0
    assert "\x1b" not in capsys.readouterr().out
    talk.write_text('[{"role": "user"}]')
    assert main([*show, f"@{talk}"]) == 1
    assert main(["prompt", "show", "你好"]) == 1
    assert "No model of this machine is set" in capsys.readouterr().err
