"""Where adapters come from, which one answers, and what promoting rests on. The weights are not under test here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kb.errors import ModelError
from ui.cli import main
from ui.settings import GeneratorSettings, Settings
from ui.speakers import answering_adapter


def adapter(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "train.json").write_text(
        json.dumps({"method": "lora", "base_model": "tiny", "metrics": {"loss": 0.5}})
    )
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
