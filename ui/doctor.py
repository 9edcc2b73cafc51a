"""What is on this machine, and what to do about what is missing. Looks; changes nothing; imports nothing heavy."""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Literal

from kb.errors import ZhiwenError
from ui.settings import Settings

Status = Literal["ok", "note", "problem"]
"""ok: fine; note: works without it, better with it; problem: something will not work."""

PACKAGES = ("numpy", "faiss-cpu", "tantivy", "pypdfium2", "torch", "transformers", "streamlit")
CPU_FLAGS = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "AVX512-BF16", "amx_bf16": "AMX-BF16"}
TEXT2VEC = "shibing624/text2vec-base-chinese"


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    topic: str
    """"python", "packages", "cpu", "gpu", "ocr", "embedder", "generator", "kb", "hub", "disk", "settings"."""
    status: Status
    zh: str
    en: str
    todo_zh: str = ""
    """What to do; empty if nothing."""
    todo_en: str = ""


def examine(settings: Settings) -> list[Finding]:
    """Every check, in the order in which a person wants to read it. Never raises for what it finds."""
    checks: list[Callable[[Settings], Iterator[Finding]]] = [
        python, packages, cpu, gpu, ocr, embedders, generator, knowledge_bases, hub, disk,
    ]  # fmt: skip
    return [finding for check in checks for finding in check(settings)]


def python(settings: Settings) -> Iterator[Finding]:
    """Interpreter, system, SQLite."""
    version = platform.python_version()
    words = f"Python {version}, SQLite {sqlite3.sqlite_version}, {platform.system()} {platform.machine()}"
    yield Finding("python", "ok", words, words)


def packages(settings: Settings) -> Iterator[Finding]:
    """Versions of the libraries that matter, without importing them."""
    found: list[str] = []
    missing: list[str] = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    if found:
        yield Finding("packages", "ok", "，".join(found), ", ".join(found))
    if missing:
        names = ", ".join(missing)
        line = f"pip install {' '.join(missing)}"
        yield Finding(
            "packages", "problem", f"缺少：{names}", f"missing: {names}", f"运行：{line}", f"run: {line}"
        )


def cpu(settings: Settings) -> Iterator[Finding]:
    """Cores, instruction sets, memory."""
    flags: set[str] = set()
    memory = 0.0
    if Path("/proc/cpuinfo").exists():
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        flags = set(next((line for line in text.splitlines() if line.startswith("flags")), "").split())
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    has = [label for flag, label in CPU_FLAGS.items() if flag in flags]
    words = f"{os.cpu_count()} 核，内存 {memory:.1f} GiB" + (f"，{'、'.join(has)}" if has else "")
    english = f"{os.cpu_count()} cores, {memory:.1f} GiB memory" + (f", {', '.join(has)}" if has else "")
    yield Finding("cpu", "ok", words, english)


def gpu(settings: Settings) -> Iterator[Finding]:
    """NVIDIA's own tool says what is there; torch is not imported."""
    tool = shutil.which("nvidia-smi")
    rows: list[str] = []
    if tool:
        query = [tool, "--query-gpu=name,memory.total,memory.free,driver_version", "--format=csv,noheader"]
        try:
            done = subprocess.run(query, capture_output=True, text=True, timeout=5, check=False)
            rows = (
                [row.strip() for row in done.stdout.splitlines() if row.strip()]
                if not done.returncode
                else []
            )
        except (OSError, subprocess.TimeoutExpired):
            rows = []
    for row in rows:
        name, total, free, driver = ([p.strip() for p in row.split(",")] + [""] * 4)[:4]
        yield Finding(
            "gpu",
            "ok",
            f"{name}，显存 {total}，空闲 {free}，驱动 {driver}",
            f"{name}, {total}, {free} free, driver {driver}",
        )
    if not rows:
        yield Finding(
            "gpu", "note", "没有可用的 NVIDIA GPU", "no NVIDIA GPU that can be used",
            "检索和摘录式回答不需要；在本机运行或微调 ChatGLM3 需要，也可以把 generator.kind 设为 openai 用远端服务",
            "not needed for search and extractive answers; ChatGLM3 wants one, or set generator.kind to openai",
        )  # fmt: skip


def ocr(settings: Settings) -> Iterator[Finding]:
    """The extra for scanned pages."""
    if util.find_spec("rapidocr_onnxruntime"):
        yield Finding("ocr", "ok", "可以识别扫描页", "scanned pages can be read")
    else:
        yield Finding(
            "ocr", "note", "未安装 OCR，扫描页会被报告为没有文字", "no OCR; scanned pages are reported as having no text",
            "运行：pip install 'zhiwen[ocr]'", "run: pip install 'zhiwen[ocr]'",
        )  # fmt: skip


def found_models(settings: Settings) -> list[Path]:
    """Folders of models: <models>/* and the Hugging Face cache's snapshots of text2vec."""
    folders = (
        sorted(p.parent for p in settings.models.glob("*/config.json")) if settings.models.is_dir() else []
    )
    cache = Path(
        os.environ.get("HF_HUB_CACHE")
        or Path(os.environ.get("HF_HOME") or Path.home() / ".cache/huggingface") / "hub"
    )
    name = "models--" + TEXT2VEC.replace("/", "--")
    return folders + sorted(p.parent for p in cache.glob(f"{name}/snapshots/*/config.json"))


def embedders(settings: Settings) -> Iterator[Finding]:
    """The shipped embedder, text2vec, and what the settings ask for."""
    from kb.embed.locate import SHIPPED, is_model

    if is_model(SHIPPED):
        size = sum(p.stat().st_size for p in SHIPPED.rglob("*") if p.is_file()) / 1e6
        yield Finding(
            "embedder",
            "ok",
            f"自带嵌入模型 {SHIPPED.name}（{size:.1f} MB）",
            f"shipped embedder {SHIPPED.name} ({size:.1f} MB)",
        )
    else:
        yield Finding(
            "embedder", "problem", f"自带嵌入模型不在 {SHIPPED}", f"the shipped embedder is not at {SHIPPED}",
            "重新安装 zhiwen；从源码运行时见 CONTRIBUTING.md", "install zhiwen again; from source see CONTRIBUTING.md",
        )  # fmt: skip
    models = found_models(settings)
    for folder in models:
        yield Finding("models", "ok", f"模型 {folder}", f"model {folder}")
    if settings.embedder.model:
        yield Finding(
            "embedder",
            "ok",
            f"设置指定的嵌入模型：{settings.embedder.model}",
            f"embedder in the settings: {settings.embedder.model}",
        )
    elif not any("text2vec" in str(folder) for folder in models):
        yield Finding(
            "embedder", "note", "没有找到 text2vec-base-chinese，使用自带的", "text2vec-base-chinese is not here; the shipped one is used",
            "运行：zhiwen models pull text2vec-base-chinese", "run: zhiwen models pull text2vec-base-chinese",
        )  # fmt: skip


def generator(settings: Settings) -> Iterator[Finding]:
    """What writes answers, and whether its parts are there."""
    wanted = settings.generator
    if wanted.kind == "none":
        yield Finding(
            "generator", "note", "没有配置语言模型，回答为原文摘录", "no language model is set; answers are extracts",
            "运行：zhiwen models pull chatglm3-6b，再按提示设置 generator.kind；见 docs/switch-models.md",
            "run: zhiwen models pull chatglm3-6b, then set generator.kind; see docs/switch-models.md",
        )  # fmt: skip
    elif wanted.kind == "openai":
        if wanted.key_env and not os.environ.get(wanted.key_env):
            yield Finding(
                "generator", "problem", f"环境变量 {wanted.key_env} 是空的", f"the environment variable {wanted.key_env} is empty",
                f"运行：export {wanted.key_env}=…", f"run: export {wanted.key_env}=...",
            )  # fmt: skip
        else:
            yield Finding(
                "generator",
                "ok",
                f"{wanted.model}，位于 {wanted.base_url}",
                f"{wanted.model} at {wanted.base_url}",
            )
    else:
        folder = settings.generator_folder
        if (folder / "config.json").is_file():
            yield Finding("generator", "ok", f"本机模型：{folder}", f"a model of this machine: {folder}")
        else:
            yield Finding(
                "generator", "problem", f"{folder} 不是转换好的模型", f"{folder} is not a converted model",
                f"运行：zhiwen models convert 官方文件夹 {folder}", f"run: zhiwen models convert OFFICIAL {folder}",
            )  # fmt: skip
    if wanted.adapter and not (Path(wanted.adapter).expanduser() / "adapter_config.json").is_file():
        yield Finding(
            "generator", "problem", f"{wanted.adapter} 不是适配器文件夹", f"{wanted.adapter} is not an adapter folder",
            "运行：zhiwen settings unset generator.adapter", "run: zhiwen settings unset generator.adapter",
        )  # fmt: skip


def knowledge_bases(settings: Settings) -> Iterator[Finding]:
    """How many there are."""
    names = sorted(p.parent.name for p in (settings.home / "kb").glob("*/kb.sqlite"))
    if names:
        listed = ", ".join(names[:20])
        yield Finding(
            "kb", "ok", f"{len(names)} 个知识库：{listed}", f"{len(names)} knowledge bases: {listed}"
        )
    else:
        yield Finding(
            "kb",
            "note",
            "还没有知识库",
            "no knowledge base yet",
            "运行：zhiwen index 文件夹",
            "run: zhiwen index FOLDER",
        )


def hub(settings: Settings) -> Iterator[Finding]:
    """Offline or not."""
    if settings.hub.offline:
        where = settings.sources.get("hub.offline", "")
        yield Finding(
            "hub", "ok", f"离线（{where}）：不会下载任何东西", f"offline ({where}): nothing is downloaded",
            "要下载模型时设 HF_HUB_OFFLINE=0", "to download models set HF_HUB_OFFLINE=0",
        )  # fmt: skip
    else:
        address = settings.hub.endpoint or "https://huggingface.co"
        yield Finding(
            "hub",
            "ok",
            f"联机；模型来自 {address}（只在 models pull 时访问）",
            f"online; models come from {address} (used by models pull only)",
        )


def disk(settings: Settings) -> Iterator[Finding]:
    """Room and write access in the home folder."""
    at = settings.home
    while not at.exists():
        at = at.parent
    free = shutil.disk_usage(at).free / 2**30
    words = f"{settings.home}：可用 {free:.1f} GiB"
    english = f"{settings.home}: {free:.1f} GiB free"
    if not os.access(at, os.W_OK):
        yield Finding(
            "disk",
            "problem",
            f"{at} 不可写",
            f"{at} cannot be written",
            "用 --home 或 ZHIWEN_HOME 换一个位置",
            "choose another place with --home or ZHIWEN_HOME",
        )
    elif free < 1:
        yield Finding(
            "disk",
            "problem",
            words,
            english,
            "请清理磁盘，或用 --home 换一个位置",
            "free some space, or choose another place with --home",
        )
    else:
        yield Finding("disk", "ok", words, english)


def broken_settings(error: ZhiwenError) -> Finding:
    """The finding for settings that cannot be read."""
    return Finding(
        "settings",
        "problem",
        error.zh,
        error.message,
        "改正后再运行 zhiwen doctor",
        "correct it and run zhiwen doctor again",
    )
