"""The comparison page's logic with a real tiny model: columns, blind votes and their tally, measures, damage, promoting."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from finetune import run
from finetune.train import train
from kb.errors import DataError
from tests.tiny_training import FACTS, write_facts
from ui import held, jobs, sides, training, votes
from ui.cli import main
from ui.settings import Settings, load_settings
from ui.votes import Vote


def script() -> None:
    from ui.pages import compare, frame

    frame.begin_language(frame.current_settings()[0])
    frame.say_now()
    compare.page()


def opened(**state: Any) -> AppTest:
    page = AppTest.from_function(script, default_timeout=90)
    for name, value in state.items():
        page.session_state[name.replace("_", "-", 1)] = value
    return page.run()


def words(page: AppTest) -> str:
    kinds = (page.markdown, page.caption, page.info, page.success, page.warning, page.error)
    return "\n".join(str(one.value).replace("\\", "") for kind in kinds for one in kind)


def until(page: AppTest, text: str, *, seconds: float = 60.0) -> AppTest:
    """Run the page again until it says something."""
    end = time.monotonic() + seconds
    while text not in words(page):
        assert time.monotonic() < end and not page.exception, words(page)
        time.sleep(0.2)
        page.run()
    return page


# ------------------------------------------------------------------ votes


def test_votes_are_kept_and_counted(home: Path) -> None:
    for choice, left in (
        ("left", "base"),
        ("right", "base"),
        ("right", "base"),
        ("left", "甲"),
        ("tie", "甲"),
    ):
        right = "甲" if left == "base" else "base"
        votes.add(home, Vote("问", left, right, choice, model="m"))  # type: ignore[arg-type]
    with (home / votes.FILE).open("a") as file:
        file.write('{"question": "half')
    (tally,) = votes.tallies(votes.read(home))
    assert (tally.one, tally.other) == ("base", "甲")
    assert (tally.wins_one, tally.wins_other, tally.ties, tally.count) == (1, 3, 1, 5)
    share = tally.share
    assert share.mean == 0.75 and share.low == pytest.approx(0.3006, abs=1e-3) and not tally.sure
    for _ in range(20):
        votes.add(home, Vote("问", "base", "甲", "right", model="m"))
    assert votes.tallies(votes.read(home))[0].sure
    judged = votes.judgements(votes.read(home), baseline="base", candidate="甲")
    assert [j.value for j in judged[:5]] == [0.0, 1.0, 1.0, 1.0, 0.5] and not any(j.swayed for j in judged)


def test_a_vote_needs_two(home: Path) -> None:
    with pytest.raises(DataError):
        votes.add(home, Vote("问", "base", "base", "left"))
    assert votes.read(home) == [] and votes.tallies([]) == []


def test_without_a_model_the_page_says_what_to_do(home: Path) -> None:
    page = opened()
    assert not page.exception and "还没有可以对比的模型" in words(page)


# ------------------------------------------------------------------ with a model that was trained here


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with a tiny model, an adapter that learned the facts, and a file of questions."""
    home = tmp_path_factory.mktemp("compare") / "home"
    (home / "datasets").mkdir(parents=True)
    (home / "questions").mkdir()
    facts = write_facts(home / "datasets" / "facts.json")
    rows = [{"question": q, "answer": a, "type": "问答"} for q, a in list(FACTS.items())[:4]]
    (home / "questions" / "held.jsonl").write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in rows))
    settings = Settings(home=home)
    config = training.config_of(
        settings,
        {"name": "facts", "dataset": str(facts), "model_name_or_path": "tiny", "finetuning_type": "lora", "device": "cpu",
         "max_steps": 80, "learning_rate": 1e-2, "lora_rank": 16, "logging_steps": 20, "save_steps": 1000, "seed": 1,
         "sample_tokens": 4},
    )  # fmt: skip
    folder = run.create(training.built(settings, config), parent=home / "runs")
    train(folder)
    yield home
    held.let_go()


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZHIWEN_HOME", str(place))
    return place


def adapter(home: Path) -> str:
    return next((home / "runs").iterdir()).name


@pytest.mark.slow
def test_base_and_adapter_answer_side_by_side(here: Path) -> None:
    page = opened(cp_most=32)
    assert page.multiselect(key="cp-adapters").value == [adapter(here)]
    page.text_input(key="cp-question").set_value("年假有几天？")
    page.button[0].click().run()
    given = page.query_params["s"]
    found = sides.find(given if isinstance(given, str) else given[0])
    assert found is not None and [c.name for c in found.columns] == ["base", adapter(here)]
    end = time.monotonic() + 60
    while not found.done:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert not any(any(c.error) for c in found.columns)
    assert "五天" in found.columns[1].text and found.columns[0].text != found.columns[1].text
    page.run()
    assert "五天" in words(page) and "token" in words(page)
    one = held.held()
    assert one is not None and list(one.adapters.values()) == [here / "runs" / adapter(here) / "adapter"]


@pytest.mark.slow
def test_blind_names_come_after_the_vote(here: Path) -> None:
    page = opened(cp_part="blind", cp_most=32)
    page.text_input(key="cp-blind-question").set_value("质保期有多长？")
    page.button[0].click().run()
    found = sides.find(page.session_state["cp-round"])
    assert found is not None
    end = time.monotonic() + 60
    while not found.done:
        assert time.monotonic() < end
        time.sleep(0.1)
    page.run()
    answers = words(page)
    assert "整机质保三年" in answers and f"· {adapter(here)}" not in answers and "· 基座" not in answers
    good = next(c for c in ("left", "right") if found.columns[c == "right"].name == adapter(here))
    page.button(key=f"cp-vote-{good}").click().run()
    assert f"· {adapter(here)}" in words(page) and "· 基座" in words(page)
    assert "胜 1" in words(page)
    (vote,) = votes.read(here)
    assert vote.winner == adapter(here) and "三年" in (vote.left_text + vote.right_text)


@pytest.mark.slow
def test_measures_damage_and_promoting(here: Path) -> None:
    page = opened(cp_part="batch", cp_most=32)
    assert page.selectbox(key="cp-file-batch").value == str(here / "questions" / "held.jsonl")
    page.button(key="cp-measure").click().run()
    job = jobs.jobs(here, kind="compare")[0]
    wait(here, job.id)
    page.run()
    table = page.dataframe[0].value
    assert table.columns.tolist()[1:] == ["基座", adapter(here)]
    exact = table[table["指标"].str.contains("exact")].iloc[0]
    assert exact["基座"].startswith("0.000") and exact[adapter(here)].startswith("1.000")
    page = opened(cp_part="damage", cp_most=16)
    page.button(key="cp-damage").click().run()
    wait(here, jobs.jobs(here, kind="damage")[0].id)
    page.run()
    assert any("背" in str(cell) for cell in page.dataframe[0].value.iloc[:, 0])
    page = opened(cp_part="promote")
    assert "由**基座**回答" in words(page)
    assert page.selectbox(key=f"cp-basis-{adapter(here)}").value.endswith("report.json")
    page.text_input(key=f"cp-reason-{adapter(here)}").set_value("四题全对").run()
    page.button(key=f"cp-promote-{adapter(here)}").click().run()
    assert f"现在由 **{adapter(here)}** 回答" in words(page) and "四题全对" in words(page)
    settings = load_settings(here)
    assert settings.generator.kind == "chatglm3"
    from ui.speakers import answering_adapter

    answering = answering_adapter(settings)
    assert answering is not None and answering[0] == adapter(here)


def wait(home: Path, number: str) -> None:
    end = time.monotonic() + 90
    while (job := jobs.find(home, number)) is not None and job.state == "running":
        assert time.monotonic() < end, (job.folder / "output.txt").read_text()
        time.sleep(0.2)
    assert job is not None and job.state == "done", (job, job and (job.folder / "output.txt").read_text())


def test_the_command_line_names_the_adapter_that_answered(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--json said "" for it, and with no language model set it was passed over: its own base speaks then."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("年休假有五天。", encoding="utf-8")
    assert main(["index", str(tmp_path / "docs"), "--kb", "named"]) == 0
    if (here / "zhiwen.toml").exists():
        assert main(["settings", "unset", "generator.kind"]) == 0
    capsys.readouterr()
    asked = ["ask", "--kb", "named", "--max-tokens", "4", "--adapter", adapter(here), "年休假有几天？"]
    assert main([*asked, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    train = json.loads((here / "runs" / adapter(here) / "adapter" / "train.json").read_text())
    assert train["base_model"] == "zhiwen/tiny-chatglm3", "nobody should take it for ChatGLM3-6B"
    assert told["adapter"] == adapter(here) and told["generator"].endswith(adapter(here))
    assert main(asked) == 0
    assert capsys.readouterr().out.count(adapter(here)) == 1
