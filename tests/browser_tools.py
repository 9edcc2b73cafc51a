"""A real server and a real browser for the tests of the pages."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
WAIT = 60_000
"""Milliseconds: these machines may be busy."""


class Server:
    """`zhiwen ui` as a person starts it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self.up_at = 0.0

    def start(self) -> None:
        environment = os.environ | {
            "ZHIWEN_HOME": str(self.home),
            "PYTHONPATH": str(ROOT),
            "HF_HUB_OFFLINE": "1",
        }
        with (self.home.parent / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ui", "ui", "--port", str(self.port), "--no-browser"],
                env=environment, stdout=log, stderr=log, cwd=self.home.parent,
            )  # fmt: skip
        for _ in range(600):
            try:
                with urllib.request.urlopen(self.url + "/_stcore/health", timeout=2):
                    self.up_at = time.time()
                    return
            except OSError:
                assert self.process.poll() is None, self.log()
                time.sleep(0.1)
        raise AssertionError("the server did not come up: " + self.log())

    def kill(self) -> None:
        """As the power does."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def log(self) -> str:
        return (self.home.parent / "server.log").read_text(encoding="utf-8", errors="replace")


@contextmanager
def running(home: Path) -> Iterator[Server]:
    """A server until the block ends."""
    server = Server(home)
    server.start()
    try:
        yield server
    finally:
        if server.process is not None and server.process.poll() is None:
            server.kill()


@contextmanager
def browser() -> Iterator[Any]:
    """Chromium, or the test is skipped with the reason."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("chromium is not on this machine (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=found, args=FLAGS)
        yield opened
        opened.close()


def new_page(opened: Any, **options: Any) -> Any:
    """A page in a context of its own (another person), in Chinese."""
    page = opened.new_context(locale="zh-CN", viewport={"width": 1280, "height": 900}, **options).new_page()
    page.set_default_timeout(WAIT)
    return page


def ask(page: Any, question: str) -> None:
    """Type and send; the answer is on its way then."""
    field = page.locator("[data-testid=stChatInput] textarea:not([disabled])")
    field.fill(question)
    field.press("Enter")


def settled(page: Any) -> None:
    """Wait until the page's script has run to its end."""
    page.wait_for_timeout(300)
    page.wait_for_function(
        "() => !document.querySelector('[data-testid=stApp][data-test-script-state=running]')"
    )


def download(page: Any, button: str, to: Path) -> None:
    """Click until the file comes: a click that falls into a redraw of the page is lost, and a person clicks again."""
    from playwright.sync_api import TimeoutError as TookTooLong

    for attempt in range(3):
        settled(page)
        try:
            with page.expect_download(timeout=20_000) as got:
                page.get_by_role("button", name=button).click()
        except TookTooLong:
            if attempt == 2:
                raise
            continue
        got.value.save_as(to)
        return


def answers(page: Any, count: int) -> list[str]:
    """The texts of the answers once `count` of them are finished."""
    page.get_by_role("button", name="回答过程").nth(count - 1).wait_for()
    settled(page)
    messages = page.locator("[data-testid=stChatMessage]")
    return [messages.nth(i).inner_text() for i in range(1, 2 * count, 2)]
