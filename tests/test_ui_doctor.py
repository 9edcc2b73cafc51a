"""doctor: finds what is there, says what to do, imports nothing heavy, changes nothing."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from ui.cli import main
from ui.doctor import Finding, examine
from ui.settings import EmbedderSettings, GeneratorSettings, HubSettings, Settings


def about(findings: list[Finding], topic: str) -> list[Finding]:
    return [finding for finding in findings if finding.topic == topic]


def test_every_problem_and_note_says_what_to_do(home: Path) -> None:
    settings = Settings(
        home=home, generator=GeneratorSettings(kind="chatglm3", model="nowhere", adapter="gone")
    )
    for finding in examine(settings):
        assert finding.zh and finding.en
        if finding.status != "ok":
            assert finding.todo_zh and finding.todo_en, finding


def test_missing_model_and_adapter_are_problems(home: Path) -> None:
    settings = Settings(
        home=home, generator=GeneratorSettings(kind="chatglm3", model="nowhere", adapter="gone")
    )
    found = about(examine(settings), "generator")
    assert [finding.status for finding in found] == ["problem", "problem"]
    assert str(home / "models" / "nowhere") in found[0].en and "gone" in found[1].en


def test_converted_model_is_found(home: Path) -> None:
    folder = home / "models" / "chatglm3-6b"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    findings = examine(Settings(home=home, generator=GeneratorSettings(kind="chatglm3", model="chatglm3-6b")))
    assert [finding.status for finding in about(findings, "generator")] == ["ok"]
    assert str(folder) in about(findings, "models")[0].en


def test_key_of_a_server(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = GeneratorSettings(
        kind="openai", model="m", base_url="http://127.0.0.1:9/v1", key_env="ZW_TEST_KEY"
    )
    settings = Settings(home=home, generator=wanted)
    monkeypatch.delenv("ZW_TEST_KEY", raising=False)
    assert about(examine(settings), "generator")[0].status == "problem"
    monkeypatch.setenv("ZW_TEST_KEY", "very-secret")
    assert about(examine(settings), "generator")[0].status == "ok"
    assert "very-secret" not in str(examine(settings))


def test_offline_and_embedder_are_reported(home: Path) -> None:
    settings = Settings(
        home=home,
        hub=HubSettings(offline=True),
        embedder=EmbedderSettings(model="some/model"),
        sources={"hub.offline": "HF_HUB_OFFLINE"},
    )
    findings = examine(settings)
    assert "HF_HUB_OFFLINE" in about(findings, "hub")[0].en
    assert any("some/model" in finding.en for finding in about(findings, "embedder"))
    online = examine(dataclasses.replace(settings, hub=HubSettings(endpoint="https://mirror.example")))
    assert "https://mirror.example" in about(online, "hub")[0].en


def test_home_that_does_not_exist_yet_is_not_made(tmp_path: Path) -> None:
    examine(Settings(home=tmp_path / "a" / "b"))
    assert not (tmp_path / "a").exists()


def test_broken_settings_are_one_finding(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "zhiwen.toml").write_text("[search]\nlimit = 1000\n")
    assert main(["doctor", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found[0]["topic"] == "settings" and "search.limit" in found[0]["en"]
    assert str(home) in found[-1]["en"]


def test_quick_and_light(home: Path) -> None:
    code = (
        "import sys; from ui.cli import main; main(['doctor', '--json']);"
        "print(sorted({'torch', 'transformers', 'faiss', 'streamlit'} & set(sys.modules)), file=sys.stderr)"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert time.monotonic() - began < 6, "wanted: under 2 s on a quiet machine"
    assert done.stderr.strip() == "[]"
    assert {entry["topic"] for entry in json.loads(done.stdout)} >= {
        "python",
        "packages",
        "cpu",
        "disk",
        "hub",
    }
