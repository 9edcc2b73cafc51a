"""Pictures of the pages for the README and the docs, taken from a real server with the sample documents.

PYTHONPATH=. python tests/screenshots.py            writes docs/images/*.png
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from tests.browser_tools import answers, ask, browser, new_page, running, settled
from tests.conftest import ROOT
from tests.tiny_training import write_facts

IMAGES = ROOT / "docs" / "images"
LARGEST = 300_000
"""Bytes of one picture."""


def shoot(page: Any, name: str) -> None:
    """The window as it is, with few enough colours to stay small."""
    from PIL import Image

    settled(page)
    page.wait_for_timeout(700)
    path = IMAGES / f"{name}.png"
    page.screenshot(path=str(path))
    for colours in (256, 128, 64):
        picture = Image.open(path).convert("RGB").quantize(colours, dither=Image.Dither.NONE)
        picture.save(path, optimize=True)
        if path.stat().st_size < LARGEST:
            break
    assert path.stat().st_size < LARGEST, f"{path} has {path.stat().st_size} bytes"
    print(f"{path.name}: {path.stat().st_size // 1000} KB")


def take(server: Any, opened: Any) -> None:
    """Each page once, in the order in which somebody meets them."""
    page = new_page(opened)
    page.goto(server.url)
    page.get_by_text("向自己的文档提问").wait_for()
    shoot(page, "first-run")
    page.get_by_role("button", name="先用示例文档试试").click()
    page.get_by_role("button", name="停止").wait_for()
    page.wait_for_timeout(4000)
    shoot(page, "indexing")
    page.locator("[data-testid=stChatInput]").wait_for()
    shoot(page, "suggestions")
    ask(page, "入职满五年的员工年休假有几天？")
    answers(page, 1)
    ask(page, "病假须提供几级医院开具的诊断证明？")
    answers(page, 2)
    shoot(page, "ask")
    page.get_by_role("button", name="员工手册.pdf").first.click()
    page.locator("[role=dialog] img").first.wait_for()
    shoot(page, "citation")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="回答过程").first.click()
    page.get_by_text("检索到").wait_for()
    shoot(page, "trace")
    page.keyboard.press("Escape")
    page.get_by_role("link", name="知识库").click()
    page.locator("[data-testid=stDataFrame]").wait_for()
    shoot(page, "knowledge")
    page.get_by_text("检索试验").click()
    page.get_by_label("检索", exact=True).last.fill("年休假 天数")
    page.keyboard.press("Enter")
    page.get_by_text("拒答阈值").wait_for()
    shoot(page, "search")
    page.goto(server.url + "/settings")
    page.get_by_role("tab", name="检查").wait_for()
    shoot(page, "settings")
    train_and_compare(page, server.url)
    dark = new_page(opened, color_scheme="dark")
    dark.goto(server.url + "/?lang=en")
    ask(dark, "How long is the warranty outside China?")
    dark.get_by_role("button", name="How it was answered").wait_for()
    shoot(dark, "ask-dark-english")
    narrow = new_page(opened)
    narrow.set_viewport_size({"width": 420, "height": 860})
    narrow.goto(server.url)
    narrow.locator("[data-testid=stChatInput]").wait_for()
    shoot(narrow, "narrow")


def train_and_compare(page: Any, url: str) -> None:
    """The tiny model learns a few facts, then answers beside its base."""
    page.goto(url + "/finetune")
    page.get_by_role("button", name="上传数据").click()
    with tempfile.TemporaryDirectory() as scratch:
        page.locator("input[type=file]").set_input_files(str(write_facts(Path(scratch) / "制度问答.json")))
        page.get_by_text("没有发现问题").wait_for()
    page.get_by_text("装得下").wait_for()
    for label, value in (("最多步数（0：按轮数）", "250"), ("学习率", "0.01")):
        field = page.get_by_label(label, exact=True).first
        field.fill(value)
        field.press("Enter")
        settled(page)
    page.get_by_text("装得下").wait_for()
    shoot(page, "finetune-plan")
    page.get_by_role("button", name="开始训练").click()
    page.get_by_role("button", name="与基座对比").wait_for()
    shoot(page, "finetune-run")
    page.get_by_role("button", name="与基座对比").click()
    page.get_by_placeholder("同一个问题，大家一起答").fill("年假有几天？")
    page.get_by_role("button", name="一起回答").click()
    page.get_by_text(re.compile(r"\d 秒")).nth(1).wait_for()
    shoot(page, "compare")


def main() -> None:
    """Take them all."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch) / "home"
        home.mkdir()
        with running(home) as server, browser() as opened:
            take(server, opened)


if __name__ == "__main__":
    main()
