"""Every command in the READMEs exists, those marked with `<!-- run -->` run, and both languages say the same."""

from __future__ import annotations

import os
import re
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from ui.cli import COMMANDS, build_parser

PAGES = ["README.md", "README_zh.md", *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(<!-- run -->\n)?```console\n(.*?)```", re.DOTALL)


def commands(page: str, *, marked: bool) -> list[str]:
    """The lines after "$ " of console blocks; with `marked` only of those that are to be run."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = [body for mark, body in BLOCK.findall(text) if mark or not marked]
    return [
        line[2:].split("   #")[0].strip()
        for body in blocks
        for line in body.splitlines()
        if line.startswith("$ ")
    ]


def test_both_readmes_have_the_same_commands_and_links() -> None:
    assert commands("README.md", marked=False) == commands("README_zh.md", marked=False)
    assert commands("README.md", marked=True) == commands("README_zh.md", marked=True) != []
    links = [
        sorted(
            set(re.findall(r"\]\(([^)h][^)]*)\)", (ROOT / page).read_text(encoding="utf-8")))
            - {"README.md", "README_zh.md"}
        )
        for page in ("README.md", "README_zh.md")
    ]
    assert links[0] == links[1]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    folder = (ROOT / page).parent
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / page).read_text(encoding="utf-8")):
        if not link.startswith("http"):
            assert (folder / link).exists(), f"{page}: {link}"


@pytest.mark.parametrize("page", PAGES)
def test_every_command_parses(page: str) -> None:
    """Flags and subcommands that are shown exist."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for line in commands(page, marked=False):
        words = shlex.split(re.split(r" [|>] ", line)[0])
        if words[0] == "make":
            assert words[1] in targets, line
        elif words[0] == "zhiwen":
            assert words[1] in COMMANDS, f"{page}: {line}"
            build_parser(words[1]).parse_args(words[1:])


@pytest.mark.slow
def test_marked_commands_run(tmp_path: Path) -> None:
    """As a person would type them, in the repository, one after the other, in a home of their own."""
    program = tmp_path / "bin" / "zhiwen"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ui "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    env = {
        **os.environ,
        "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "ZHIWEN_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "1",
    }
    for line in commands("README.md", marked=True):
        done = subprocess.run(
            ["bash", "-c", line], cwd=ROOT, env=env, capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, f"$ {line}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr and done.stdout.strip(), line
