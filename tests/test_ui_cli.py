"""The command line as a whole: help, speed, language, exit codes, safe output."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from finetune.tiny import build as build_tiny
from tests.conftest import ROOT
from tests.tiny_training import write_facts
from ui.cli import COMMANDS, build_parser, main, use_language
from ui.table import clip, safe, table, width
from ui.text import language, set_language


def zhiwen(*arguments: str, home: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ui", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "ZHIWEN_HOME": str(home), **env},
        timeout=120,
        check=False,
    )


def test_help_is_instant(home: Path) -> None:
    spent = []
    for _ in range(3):
        began = time.monotonic()
        done = zhiwen("--help", home=home)
        spent.append(time.monotonic() - began)
    assert done.returncode == 0 and all(name in done.stdout for name in COMMANDS)
    assert min(spent) < 1.0, "wanted: under 0.3 s on a quiet machine"


def test_help_imports_nothing_but_us() -> None:
    code = "import sys; from ui.cli import build_parser; build_parser('').format_help(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert not {"numpy", "torch", "rich", "faiss", "kb.store"} & set(done.stdout.split())


@pytest.mark.parametrize("name", list(COMMANDS))
@pytest.mark.parametrize("language", ["zh", "en"])
def test_every_command_has_help_that_ends_with_an_example(
    name: str, language: str, capsys: pytest.CaptureFixture[str]
) -> None:
    set_language("en" if language == "en" else "zh")
    try:
        with pytest.raises(SystemExit) as done:
            build_parser(name).parse_args([name, "--help"])
    finally:
        set_language("zh")
    text = capsys.readouterr().out.rstrip()
    assert done.value.code == 0
    assert f"zhiwen {name}" in text.splitlines()[-1], "the last line is an example"


@pytest.mark.parametrize(
    "words", [("data", "show"), ("data", "check"), ("data", "formats"), ("models", "pull")]
)
def test_help_of_two_words_is_chinese_too(words: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser(words[0]).parse_args([*words, "--help"])
    text = capsys.readouterr().out
    assert "显示帮助" in text and "show this help" not in text and "positional arguments" not in text


def test_language_of_the_settings_file(home: Path) -> None:
    (home / "zhiwen.toml").write_text('language = "en"\n')
    assert "ask your own documents" in zhiwen("--help", home=home, ZHIWEN_LANG="").stdout
    use_language(["kb", f"--home={home}", "list"])
    try:
        assert language() == "en"
    finally:
        set_language("zh")
    assert "向自己的文档提问" in zhiwen("--help", home=home, ZHIWEN_LANG="zh").stdout


def test_errors_are_one_sentence_in_the_language_in_force(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["settings", "set", "search.mode", "both"]) == 1
    assert "允许" in capsys.readouterr().err
    set_language("en")
    try:
        assert main(["settings", "set", "search.mode", "both"]) == 1
    finally:
        set_language("zh")
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "Allowed" in error and "Traceback" not in error


def test_wrong_usage_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["nonsense"], ["kb", "explode"], ["search"]):
        with pytest.raises(SystemExit) as done:
            main(arguments)
        assert done.value.code == 2
    capsys.readouterr()
    assert main(["settings", "set", "language"]) == 2
    assert "zhiwen settings set" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "chinese", "english"),
    [
        (["nonsense"], "不能是 'nonsense'", "invalid choice: 'nonsense'"),
        (["models", "explode"], "不能是 'explode'", "invalid choice: 'explode'"),
        (["search"], "缺少参数：question", "required: question"),
        (["search", "a", "--limit"], "--limit 后面要有值", "expected one argument"),
        (["search", "a", "--limit", "0"], "--limit 的值 '0' 不可用", "invalid positive value: '0'"),
        (["search", "a", "--none"], "不认识的参数：--none", "unrecognized arguments: --none"),
    ],
)
def test_wrong_usage_is_said_in_the_language_in_force(
    arguments: list[str], chinese: str, english: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    error = capsys.readouterr().err.splitlines()[-1]
    assert chinese in error and english not in error and "--help" in error
    set_language("en")
    try:
        with pytest.raises(SystemExit):
            main(arguments)
    finally:
        set_language("zh")
    error = capsys.readouterr().err.splitlines()[-1]
    assert english in error and not re.search("[\u4e00-\u9fff]", error)


def test_closed_pipe_is_quiet(home: Path) -> None:
    line = f"{sys.executable} -m ui settings | head -1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "ZHIWEN_HOME": str(home)}, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr


def test_names_cannot_move_the_cursor() -> None:
    assert safe("a\x1b[2Jb\nc\u202ed.pdf") == "a�[2Jb c�d.pdf"
    assert "\x1b" not in table(["name"], [["evil\x1b]0;x\x07.pdf"]])


def test_columns_line_up_with_chinese() -> None:
    lines = table(["名称", "n"], [["手册", "1"], ["abc", "22"]], right=(1,)).splitlines()
    assert {width(line) for line in lines} == {8}
    assert clip("知识库的名字很长", 9) == "知识库的…" and width(clip("知识库的名字很长", 9)) <= 9


def test_json_is_json_also_where_something_is_done(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Programs that asked for JSON got a sentence from these."""
    (home / "docs").mkdir()
    (home / "docs" / "a.txt").write_text("年休假有五天。", encoding="utf-8")
    assert main(["index", str(home / "docs"), "--kb", "a"]) == 0
    for arguments in (
        ["kb", "rm", "a", "--yes"],
        ["persona", "set", "店长", "--system", "说话爽快。"],
        ["persona", "rm", "店长"],
        ["settings", "set", "search.limit", "5"],
        ["settings", "unset", "search.limit"],
        ["adapters", "promote", "--base"],
    ):
        capsys.readouterr()
        assert main([*arguments, "--json"]) == 0
        assert isinstance(json.loads(capsys.readouterr().out), dict), arguments


def test_a_training_run_prints_json_alone(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model is the settings' one, by its name under the models folder."""
    build_tiny(home / "models" / "small", texts=["年假有几天？", "五天。"])
    write_facts(tmp_path / "facts.json")
    monkeypatch.chdir(tmp_path)
    assert main(["settings", "set", "generator.model", "small"]) == 0
    assert main(["settings", "set", "generator.kind", "chatglm3"]) == 0
    flags = ["--finetuning-type", "lora", "--device", "cpu", "--max-steps", "1", "--sample-tokens", "2"]
    capsys.readouterr()
    assert main(["finetune", "--dataset", str(tmp_path / "facts.json"), *flags, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["state"] == "done" and Path(told["adapter"]).is_dir()
    assert main(["finetune", "--stop", told["folder"]]) == 1
    assert "没有在训练：完成" in capsys.readouterr().err
