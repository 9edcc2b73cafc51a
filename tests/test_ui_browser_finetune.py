"""In a real browser: train a tiny model, reload in the middle, see the curve, compare, vote, promote."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from finetune.run import list_runs
from tests.browser_tools import browser, new_page, running, settled
from tests.tiny_training import write_facts
from ui import votes
from ui.settings import load_settings

pytestmark = [pytest.mark.browser, pytest.mark.slow]
CURVE = "[data-testid=stVegaLiteChart] canvas, [data-testid=stVegaLiteChart] svg"


def choose(page: Any, label: str, option: str) -> None:
    """In a select box with that label."""
    page.locator("[data-testid=stSelectbox], [data-testid=stMultiSelect]", has_text=label).first.locator(
        "input"
    ).click()
    page.get_by_role("option", name=option).first.click()
    page.keyboard.press("Escape")
    settled(page)


def fill(page: Any, label: str, value: str) -> None:
    """A field with that label."""
    field = page.get_by_label(label, exact=True).first
    field.fill(value)
    field.press("Enter")
    settled(page)


def test_train_reload_compare_vote_promote(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    facts = write_facts(tmp_path / "facts.json")
    with browser() as opened, running(home) as server:
        page = new_page(opened)
        page.goto(server.url + "/finetune")
        page.get_by_role("button", name="上传数据").click()
        page.locator("input[type=file]").set_input_files(str(facts))
        page.get_by_text("没有发现问题").wait_for()
        page.get_by_text("装得下").wait_for()
        fill(page, "最多步数（0：按轮数）", "250")
        fill(page, "学习率", "0.01")
        page.get_by_text("装得下").wait_for()
        settled(page)
        page.get_by_role("button", name="开始训练").click()
        page.locator(CURVE).first.wait_for()
        page.reload()
        page.locator(CURVE).first.wait_for()
        page.get_by_role("button", name="与基座对比").wait_for()
        (run,) = list_runs(home / "runs")
        assert run.state == "done" and run.step == 250 and (home / "datasets" / "facts.json").is_file()
        settled(page)
        page.get_by_role("button", name="与基座对比").click()
        page.get_by_placeholder("同一个问题，大家一起答").fill("年假有几天？")
        page.get_by_role("button", name="一起回答").click()
        page.get_by_text(re.compile(r"\d 秒")).nth(1).wait_for()
        assert "五天" in page.locator("[data-testid=stMain]").inner_text()
        settled(page)
        page.get_by_role("radio", name="盲投").or_(page.get_by_role("button", name="盲投")).first.click()
        page.get_by_role("button", name="开始", exact=True).wait_for()
        page.get_by_label("问题", exact=True).fill("质保期有多长？")
        page.get_by_role("button", name="开始", exact=True).click()
        page.get_by_role("button", name="左边更好").wait_for()
        shown = page.locator("[data-testid=stMain]").inner_text()
        assert "左 · " not in shown and "三年" in shown
        page.get_by_role("button", name="右边更好").click()
        page.get_by_text("计票").wait_for()
        assert len(votes.read(home)) == 1
        settled(page)
        page.get_by_role("radio", name="启用").or_(page.get_by_role("button", name="启用")).first.click()
        page.get_by_role("button", name="启用", exact=True).last.click()
        page.get_by_text("正在回答").wait_for()
        assert load_settings(home).generator.kind == "chatglm3"
        assert "Traceback" not in server.log()
