"""Where adapters come from, which one answers, and what promoting rests on. The weights are not under test here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kb.errors import ModelError, SettingsError
from ui.cli import main
from ui.commands.ask import with_its_model
from ui.settings import GeneratorSettings, Settings, load_settings
from ui.speakers import answering_adapter, find_adapter


def adapter(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "train.json").write_text(
        json.dumps({"method": "lora", "base_model": "tiny", "metrics": {"loss": 0.5}})
    )
    return folder


def write_tiny(folder: Path) -> Path:
    """What a model folder of another family is known by."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}')
    return folder


def comparison(folder: Path, name: str) -> Path:
    numbers = {"mean": 0.9, "interval": [0.8, 1.0], "gain": 0.3, "gain_interval": [0.2, 0.4]}
    path = folder / "report.json"
    path.write_text(json.dumps({"overall": {"f1": {"base": numbers, name: numbers, f"{name} +kb": numbers}}}))
    return path


def test_promote_records_what_it_rests_on_and_answers(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = adapter(home / "adapters" / "手册")
    adapter(home / "runs" / "law-20260101" / "adapter")
    settings = Settings(home=home, generator=GeneratorSettings(kind="chatglm3", model="m"))
    assert main(["adapters", "list", "--json"]) == 0
    assert {r["name"] for r in json.loads(capsys.readouterr().out)} >= {"手册", "law-20260101"}
    assert answering_adapter(settings) is None
    path = comparison(home, "手册")
    assert main(["adapters", "promote", "手册", "--comparison", str(path), "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert set(about["measures"]["f1"]) == {"手册", "手册 +kb"} and about["comparison"] == str(path)
    assert answering_adapter(settings) == ("手册", kept.resolve())
    assert main(["adapters", "show", "手册"]) == 0
    assert "+0.300" in capsys.readouterr().out
    assert main(["adapters", "rm", "手册"]) == 1 and kept.is_dir()
    assert main(["adapters", "promote", "law-20260101"]) == 0
    assert answering_adapter(settings) == ("law-20260101", (home / "runs/law-20260101/adapter").resolve())
    assert main(["adapters", "rm", "law-20260101"]) == 1, "the one of a run is safe too"
    assert main(["adapters", "rm", "手册"]) == 0 and not kept.exists()
    assert main(["adapters", "promote", "--base"]) == 0 and answering_adapter(settings) is None


def test_what_cannot_be_promoted(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = adapter(home / "adapters" / "a")
    assert main(["adapters", "promote", "b"]) == 1
    assert "a" in capsys.readouterr().err
    assert main(["adapters", "promote", "a", "--comparison", str(comparison(home, "other"))]) == 1
    assert not (home / "adapters" / "promoted.json").exists()
    assert main(["adapters", "promote", "a"]) == 0
    (kept / "adapter_config.json").unlink()
    settings = Settings(home=home, generator=GeneratorSettings(kind="chatglm3", model="m"))
    with pytest.raises(ModelError, match="promote --base"):
        answering_adapter(settings)
    (home / "adapters" / "promoted.json").write_text("{")
    with pytest.raises(ModelError, match="damaged"):
        answering_adapter(settings)


def test_an_adapter_is_found_by_its_run_with_or_without_the_time(home: Path) -> None:
    first = adapter(home / "runs" / "law-20260101-120000" / "adapter")
    newest = adapter(home / "runs" / "law-20260102-120000" / "adapter")
    settings = Settings(home=home)
    runs = home / "runs"
    for name in ("law", str(runs / "law"), str(runs / "law-20260102-120000"), str(newest)):
        assert find_adapter(settings, name).folder.resolve() == newest.resolve(), name
    assert find_adapter(settings, str(runs / "law-20260101-120000")).folder.resolve() == first.resolve()
    other = adapter(home / "else" / "law-20260103-120000" / "adapter")  # where nobody looks by himself
    assert find_adapter(settings, str(home / "else" / "law")).folder.resolve() == other.resolve()
    for name in ("la", str(runs / "la"), str(home / "elsewhere" / "law")):
        with pytest.raises(ModelError, match="law-20260102-120000"):
            find_adapter(settings, name)


def test_without_a_language_model_an_adapter_is_not_passed_over_in_silence(
    home: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """An answer in quotes after `--adapter`, or after "it answers now", would be taken for the adapter's."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("年休假有五天。", encoding="utf-8")
    assert main(["index", str(tmp_path / "docs")]) == 0
    adapter(home / "adapters" / "lost")
    capsys.readouterr()
    assert main(["ask", "--adapter", "lost", "年休假有几天？"]) == 1
    assert "没有设置语言模型" in capsys.readouterr().err
    assert main(["adapters", "promote", "lost"]) == 0
    assert "回答仍是原文摘录" in capsys.readouterr().out
    assert main(["ask", "--extractive", "--adapter", "lost", "年休假有几天？"]) == 0
    here = write_tiny(home / "models" / "tiny")
    kept = adapter(home / "adapters" / "own")
    (kept / "train.json").write_text(json.dumps({"base_folder": str(here)}))
    assert with_its_model(
        replace(Settings(home=home), generator=GeneratorSettings(adapter="own"))
    ).generator == (GeneratorSettings(kind="local", model=str(here), adapter="own"))
    capsys.readouterr()
    assert main(["adapters", "promote", "own"]) == 0
    assert "已设为 generator.model" in capsys.readouterr().out
    found = load_settings(home)
    assert (found.generator.kind, found.generator_folder) == ("local", here.resolve())
    served = GeneratorSettings(kind="openai", base_url="http://127.0.0.1:1/v1", model="m", adapter="own")
    with pytest.raises(SettingsError, match="takes no adapters"):
        with_its_model(Settings(home=home, generator=served))
