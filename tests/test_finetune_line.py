"""The whole line of docs/all-stages.md, its own commands: pt, sft, rm, ppo; dpo beside it; and who answers better."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from finetune import events
from tests.conftest import ROOT
from ui.cli import main

PAGE = ROOT / "docs" / "all-stages.md"


def commands() -> list[list[str]]:
    """The commands of the first block of the page, without the comments behind them."""
    block = re.search(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert block is not None
    lines = block[1].replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("zhiwen ")]


@pytest.mark.slow
def test_the_whole_line_as_documented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ZHIWEN_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(ROOT / "data")
    asked = commands()
    assert [c[0] for c in asked] == ["finetune"] * 5 + ["compare"]
    for command in asked:
        assert main(command) == 0, command
    capsys.readouterr()

    def steps(name: str) -> list[events.Event]:
        [folder] = Path("runs").glob(f"line-{name}-*")
        return [e for e in events.read(folder) if e["event"] == "step"]

    assert steps("rm")[-1]["accuracy"] == 1
    ppo = steps("ppo")
    assert ppo[0]["kl"] == pytest.approx(0, abs=1e-3), (
        "it starts from the sft adapter, which is its reference"
    )
    assert ppo[-1]["score"] > ppo[0]["score"] + 1 and max(e["kl"] for e in ppo) < 4
    assert steps("dpo")[0]["loss"] == pytest.approx(0.6931, abs=1e-3)
    [report] = Path("report").glob("report.json")
    about = json.loads(report.read_text(encoding="utf-8"))
    names = [re.sub(r"-\d{8}-\d{6}.*", "", name) for name in about["names"]]
    assert names == ["base", "line-sft", "line-ppo", "line-dpo"]
    base, sft, taught, preferred = (about["overall"]["f1"][name]["mean"] for name in about["names"])
    assert max(base, sft) < 0.7 and min(taught, preferred) > 0.9, about["overall"]["f1"]
