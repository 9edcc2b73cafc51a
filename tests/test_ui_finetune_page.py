"""The fine-tuning page's logic: data and its problems, the plan, starting, stopping, resuming, comparing runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from finetune import run
from finetune.train import train
from tests.tiny_training import write_facts
from ui import training
from ui.settings import Settings


def script() -> None:
    from ui.pages import finetune, frame

    frame.begin_language(frame.current_settings()[0])
    frame.say_now()
    finetune.page()


def opened(**state: Any) -> AppTest:
    page = AppTest.from_function(script, default_timeout=90)
    for name, value in state.items():
        page.session_state[name.replace("_", "-", 1)] = value
    return page.run()


def words(page: AppTest) -> str:
    """Everything that is written on the page."""
    kinds = (page.markdown, page.caption, page.info, page.success, page.warning, page.error, page.title)
    return "\n".join(str(one.value).replace("\\", "") for kind in kinds for one in kind)


class Sent:
    """An upload as a browser sends it."""

    def __init__(self, name: str, data: bytes) -> None:
        import io

        self.name, self.size, self._file = name, len(data), io.BytesIO(data)

    def read(self, size: int = -1, /) -> bytes:
        return self._file.read(size)

    def seek(self, offset: int, /) -> int:
        return self._file.seek(offset)


def test_nothing_chosen_offers_the_samples(home: Path) -> None:
    page = opened()
    assert not page.exception
    options = page.multiselect(key="ft-sets").options
    assert "zhouyi（示例）" in options
    assert not page.button or "ft-start" not in [b.key for b in page.button]


def test_problems_come_with_file_and_line(home: Path) -> None:
    folder = home / "datasets"
    folder.mkdir()
    lines = [
        '{"instruction": "年假有几天？", "output": "五天。"}',
        '{"instruction": "年假有几天？", "output": "五天。"}',
        "{broken",
        '{"instruction": "年假有几天？", "output": "十天。"}',
    ]
    (folder / "mine.jsonl").write_text("\n".join(lines), encoding="utf-8")
    page = opened(ft_sets=[str(folder / "mine.jsonl")])
    assert not page.exception
    table = page.dataframe[0].value
    assert {"mine.jsonl:2", "mine.jsonl:3", "mine.jsonl:4"} <= set(table["位置"])
    assert "发现 3 处问题" in "".join(e.label for e in page.expander)


def test_uploads_are_checked_and_stay_in_their_folder(home: Path) -> None:
    settings = Settings(home=home)
    files = [
        Sent("好.csv", "question,answer\n一,二\n".encode("gb18030")),
        Sent("../out.csv", b"question,answer\n1,2\n"),
        Sent("a,b.csv", b"question,answer\n1,2\n"),
        Sent(".hidden.csv", b"x"),
        Sent("run.py", b"print()"),
        Sent("empty.json", b""),
    ]
    taken, refused = training.take(settings, files)
    assert [p.name for p in taken] == ["好.csv"]
    assert [r.name for r in refused] == ["../out.csv", "a,b.csv", ".hidden.csv", "run.py", "empty.json"]
    assert sorted(p.name for p in (home / "datasets").iterdir()) == ["好.csv"]
    assert all(r.zh and r.en for r in refused)
    assert training.known_sets(settings)[0].key == str(home / "datasets" / "好.csv")


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one data set and a tiny model in it."""
    home = tmp_path_factory.mktemp("home")
    (home / "datasets").mkdir()
    write_facts(home / "datasets" / "facts.json")
    return home


@pytest.fixture
def with_facts(facts: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZHIWEN_HOME", str(facts))
    return facts


def test_the_plan_follows_the_choices(with_facts: Path) -> None:
    page = opened(ft_sets=[str(with_facts / "datasets" / "facts.json")])
    assert not page.exception and not page.error
    steps = page.metric[0].value
    assert "装得下" in words(page)
    page.number_input(key="ft-num_train_epochs").set_value(30.0).run()
    assert int(page.metric[0].value) > int(steps)
    before = page.metric[2].value
    page.segmented_control(key="ft-finetuning_type").set_value("full").run()
    assert not page.error and page.metric[2].value != before
    assert "100.00 %" in words(page)
    page.number_input(key="ft-max_steps").set_value(7).run()
    assert page.metric[0].value == "7"


def test_a_plan_that_does_not_fit_says_what_to_change(
    with_facts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import finetune.plan

    monkeypatch.setattr(finetune.plan, "free_bytes", lambda device: 2_000_000)
    page = opened(ft_sets=[str(with_facts / "datasets" / "facts.json")])
    assert "内存不够" in words(page) and page.button(key="ft-start").disabled


def test_wrong_stage_is_explained_and_nothing_can_start(with_facts: Path) -> None:
    page = opened(ft_sets=[str(with_facts / "datasets" / "facts.json")], ft_stage="pt")
    assert "--stage sft" in page.error[0].value.replace("\\", "")
    assert "ft-start" not in [b.key for b in page.button]


def test_choices_outlive_a_visit_to_another_part(with_facts: Path) -> None:
    page = opened(ft_sets=[str(with_facts / "datasets" / "facts.json")])
    page.number_input(key="ft-lora_rank").set_value(4).run()
    page.segmented_control(key="ft-part").set_value("runs").run()
    page.segmented_control(key="ft-part").set_value("new").run()
    assert page.number_input(key="ft-lora_rank").value == 4
    assert page.multiselect(key="ft-sets").value == [str(with_facts / "datasets" / "facts.json")]


def test_what_is_learned_of_an_example_is_marked(with_facts: Path) -> None:
    page = opened(ft_sets=[str(with_facts / "datasets" / "facts.json")])
    shown = next(m.value for m in page.markdown if "gMASK" in m.value)
    learned = [part.split("]")[0] for part in shown.split(":green-background[")[1:]]
    assert any("五天" in part or "。" in part for part in learned)
    assert not any("？" in part for part in learned)


def wait(folder: Path, *states: str, seconds: float = 90.0) -> run.RunInfo:
    end = time.monotonic() + seconds
    while (found := run.info(folder)).state not in states:
        assert time.monotonic() < end, (found, (folder / "log.txt").read_text())
        time.sleep(0.1)
    return found


@pytest.mark.slow
def test_train_stop_resume_and_compare(with_facts: Path) -> None:
    page = opened(ft_sets=[str(with_facts / "datasets" / "facts.json")], ft_max_steps=20_000)
    page.text_input(key="ft-name").set_value("甲/乙 ..").run()
    page.button(key="ft-start").click().run()
    assert not page.exception and not page.error
    (folder,) = [f for f in (with_facts / "runs").iterdir()]
    assert folder.name.startswith("甲-乙-")
    end = time.monotonic() + 60
    while not any(e["event"] == "step" for e in training.events_of(folder)):
        assert time.monotonic() < end, (folder / "log.txt").read_text()
        time.sleep(0.1)
    page = opened()  # somebody reloads: the run is what is shown
    assert page.segmented_control(key="ft-part").value == "runs" and "训练中" in words(page)
    assert "token / 秒" in [m.label for m in page.metric]
    page.button(key=f"ft-stop-{folder.name}").click().run()
    stopped = wait(folder, "stopped")
    assert 0 < stopped.step < 20_000
    page = opened()
    page.segmented_control(key="ft-part").set_value("runs").run()
    assert "已停下" in words(page)
    page.button(key=f"ft-resume-{folder.name}").click().run()
    assert run.info(folder).state in ("running", "done")
    wait(folder, "running", "done")
    run.stop(folder)
    wait(folder, "stopped", "done")
    assert run.info(folder).step >= stopped.step
    short = training.config_of(
        Settings(home=with_facts),
        {"dataset": str(with_facts / "datasets" / "facts.json"), "model_name_or_path": "tiny", "max_steps": 3,
         "finetuning_type": "lora", "sample_tokens": 4},
    )  # fmt: skip
    second = run.create(training.built(Settings(home=with_facts), short), parent=with_facts / "runs")
    train(second)
    page = opened(ft_part="runs")
    assert not page.exception
    assert len(page.multiselect(key="ft-several").value) == 2
    assert f"ft-try-{second.name}" in [b.key for b in page.button]
    assert "第 3 步" in words(page)


def test_preferences_are_planned_shown_and_their_rewards_drawn(with_facts: Path) -> None:
    page = opened(ft_sets=["service_preference"], ft_stage="dpo")
    assert not page.exception and not page.error and "装得下" in words(page)
    shown = [m.value for m in page.markdown if "gMASK" in m.value]
    assert len(shown) == 2 and "说明书" in shown[1], "the chosen and the rejected answer"
    values = {"dataset": "service_preference", "model_name_or_path": "tiny", "max_steps": 2, "stage": "rm",
              "finetuning_type": "lora"}  # fmt: skip
    settings = Settings(home=with_facts)
    config = training.built(settings, training.config_of(settings, values))
    done = train(run.create(config, parent=with_facts / "runs"))
    page = opened(ft_part="runs")
    assert not page.exception and "正确率" in words(page) and "奖励模型" in words(page)
    assert f"zhiwen score {done.folder}" in [c.value.rsplit(" ", 3)[0] for c in page.code]
    assert f"ft-try-{done.folder.name}" not in [b.key for b in page.button]


def test_smoothing_starts_at_the_first_value() -> None:
    from ui.pages.ft_curves import smoothed

    assert smoothed([2.0, 2.0, 2.0]) == pytest.approx([2.0, 2.0, 2.0])
    assert smoothed([4.0, 0.0])[0] == 4.0 > smoothed([4.0, 0.0])[1]


def test_events_are_read_on_and_anew_after_a_resume(tmp_path: Path) -> None:
    from finetune.events import EventLog

    log, tail = EventLog(tmp_path), training.EventTail(tmp_path)
    assert tail.read() == []
    for step in range(5):
        log.write("step", step=step, loss=1.0)
    assert len(tail.read()) == 5
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"event": "half')
    assert len(tail.read()) == 5
    log.rewind(2)
    assert [e["step"] for e in tail.read()] == [0, 1, 2]
    assert [e["step"] for e in training.thinned(tail.read(), most=2)] == [0, 2]


def test_another_base_chooses_its_template(home: Path) -> None:
    from tests.tiny_bases import tiny_base

    (home / "datasets").mkdir()
    write_facts(home / "datasets" / "facts.json")
    folder = tiny_base(home / "models" / "llama", "llama")
    bare = tiny_base(home / "models" / "bare", "llama", template="none")
    sets = [str(home / "datasets" / "facts.json")]
    page = opened(ft_sets=sets)
    page.selectbox(key="ft-model_name_or_path").set_value(str(folder)).run()
    assert not page.exception and not page.error
    assert "INST" in words(page), "its own template, in the example"
    page.selectbox(key="ft-template").set_value("alpaca").run()
    assert "Instruction" in words(page)
    page.selectbox(key="ft-model_name_or_path").set_value(str(bare))
    page.selectbox(key="ft-template").set_value("auto").run()
    assert "没有自带对话模板" in words(page), "said, with what to choose"
