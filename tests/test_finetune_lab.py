"""The classic experiment with a tiny real GLM: bad data shows, and so does training too long."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from finetune.lab import LabResult, config_of, read_lab, run_lab
from kb.errors import SettingsError
from rag.types import Generator
from tests.conftest import ROOT
from ui.settings import GeneratorSettings
from ui.speakers import open_model

TABLES = ROOT / "data" / "lab"


def opened(folder: Path, adapters: Mapping[str, Path], quantise: str) -> Generator:
    return open_model(folder, adapters, GeneratorSettings(kind="chatglm3", device="cpu", quantise=quantise))


@pytest.mark.slow
def test_the_classic_experiment_shows_its_effect(tmp_path: Path) -> None:
    lab = read_lab(TABLES / "zhouyi-tiny.toml")
    result: LabResult = run_lab(lab, open_model=opened, home=tmp_path, folder=tmp_path / "lab")
    made = result.comparison
    assert made.names == ("base", "clean", "shuffled", "over-trained")
    for name in ("f1", "rouge_l"):
        gap = made.between(made.measure(name), 1, 2)
        assert gap.sure and gap.low > 0, f"shuffled is below clean by more than the interval: {name} {gap}"
    gain = result.recall_gain("over-trained", "clean")
    assert gain.sure and gain.low > 0, f"the over-trained one recites more: {gain}"
    page = (result.folder / "report.html").read_text(encoding="utf-8")
    assert "over-trained" in page and "<svg" in page and "shuffle 100%" in page
    assert set(json.loads((result.folder / "lab.json").read_text())["recalled"]) == set(made.names)
    before = dict(result.runs)
    again = run_lab(lab, open_model=opened, home=tmp_path, folder=tmp_path / "lab")
    assert dict(again.runs) == before, "what is trained is not trained again"


def test_tables_are_read_and_checked(tmp_path: Path) -> None:
    for path in sorted(TABLES.glob("*.toml")):
        lab = read_lab(path)
        assert lab.questions.is_file() and [v.name for v in lab.variants] == [
            "clean",
            "shuffled",
            "over-trained",
        ]
        clean, _, over = (config_of(lab, v) for v in lab.variants)
        assert over.train.num_train_epochs > clean.train.num_train_epochs
        same = dataclasses.replace(over.train, num_train_epochs=clean.train.num_train_epochs)
        assert same == clean.train, "nothing else differs"
    bad = tmp_path / "lab.toml"
    for text, word in (
        ("name = 'x'", "variant"),
        ("questions = 'q.csv'\n[[variant]]\nname = 'base'", "base"),
        ("questions = 'q.csv'\n[[variant]]\nname = 'a'\nlearning_rat = 1.0", "learning_rate"),
        ("questions = 'q.csv'\nwhat = 1\n[[variant]]\nname = 'a'", "what"),
        ("questions = 'q.csv'\n[[variant]]\nname = 'a'\ncorrupt = { hurt = 1 }", "corrupt"),
    ):
        bad.write_text(text)
        with pytest.raises(SettingsError, match=word):
            read_lab(bad)
