"""`zhiwen models list | pull | convert | verify | export | import-adapter`: language models on this machine."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ui import arguments
from ui.text import pick

if TYPE_CHECKING:
    from ui.settings import Settings

ACTIONS = {
    "list": ("列出模型文件夹里的模型", "what lies in the models folder"),
    "pull": (
        "从 Hugging Face 或 ModelScope 下载（可断点续传）",
        "fetch from Hugging Face or ModelScope, resumable",
    ),
    "convert": ("官方格式 → 标准文件夹", "official layout -> standard folder"),
    "verify": ("证明转换后的文件夹无误", "prove that a converted folder is right"),
    "export": ("标准文件夹 → 官方格式，可合并适配器", "standard folder -> official layout, adapter merged"),
    "import-adapter": ("旧 LoRA、P-tuning v2 → PEFT 适配器", "old LoRA or P-tuning v2 -> PEFT adapter"),
}
EXAMPLES = {
    "list": "zhiwen models list",
    "pull": "zhiwen models pull chatglm3-6b --from modelscope",
    "convert": "zhiwen models convert chatglm3-6b-official chatglm3-6b --dtype bf16",
    "verify": "zhiwen models verify chatglm3-6b --official chatglm3-6b-official",
    "export": "zhiwen models export chatglm3-6b tuned-official --adapter runs/zhouyi",
    "import-adapter": "zhiwen models import-adapter old-lora runs/old --base chatglm3-6b",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One subparser for each action."""
    from ui.cli import in_language

    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    subs = {}
    for name, (zh, en) in ACTIONS.items():
        sub = subs[name] = actions.add_parser(
            name,
            help=pick(zh, en),
            description=pick(zh, en),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        in_language(sub)
        arguments.add_home(sub)
        arguments.example(sub, EXAMPLES[name])
    arguments.add_json(subs["list"])
    arguments.add_json(subs["verify"])
    add_pull(subs["pull"])
    for name in ("convert", "export", "import-adapter"):
        subs[name].add_argument("source", type=Path, metavar="SRC")
        subs[name].add_argument("target", type=Path, metavar="DST")
        subs[name].add_argument(
            "--overwrite", action="store_true", help=pick("替换已有的目标", "replace DST")
        )
    subs["convert"].add_argument(
        "--dtype", default="", metavar="fp16|bf16|fp32", help=pick("默认与源相同", "default: as SRC")
    )
    subs["convert"].add_argument(
        "--family", choices=("chatglm2", "chatglm3"), help=pick("默认看名字", "default: by its name")
    )
    subs["convert"].add_argument("--tokenizer", type=Path, metavar="FILE", help="tokenizer.model")
    subs["export"].add_argument(
        "--adapter", type=Path, help=pick("合并这个 LoRA 适配器", "merge this LoRA adapter")
    )
    subs["import-adapter"].add_argument(
        "--base", type=Path, required=True, help=pick("转换后的基座", "the converted base")
    )
    subs["verify"].add_argument("folder", type=Path, metavar="DIR")
    subs["verify"].add_argument(
        "--official", type=Path, metavar="SRC", help=pick("再逐个张量比较", "compare every tensor")
    )
    arguments.example(parser, *EXAMPLES.values())


def add_pull(parser: argparse.ArgumentParser) -> None:
    """What to fetch, where from and where to."""
    parser.add_argument("model", metavar="NAME", help="chatglm3-6b, text2vec-base-chinese, owner/name ...")
    parser.add_argument("--from", dest="hub", choices=("huggingface", "modelscope"), default="huggingface")
    parser.add_argument("--to", type=Path, metavar="DIR", help=pick("目标文件夹", "where to"))
    parser.add_argument("--endpoint", default="", metavar="URL", help=pick("镜像地址", "address of a mirror"))
    parser.add_argument("--revision", default="", help=pick("分支、标签或提交", "branch, tag or commit"))


def run(args: argparse.Namespace) -> int:
    """Do it. verify returns 1 if something is wrong."""
    actions: dict[str, Callable[[argparse.Namespace], int]] = {
        "list": run_list,
        "pull": run_pull,
        "convert": run_convert,
        "verify": run_verify,
        "export": run_export,
        "import-adapter": run_import,
    }
    return actions[args.action](args)


def run_list(args: argparse.Namespace) -> int:
    """Every folder under the models folder that is a model."""
    settings = arguments.settings_of(args)
    rows = [[p.parent.name, kind_of(p.parent), f"{size_of(p.parent) / 1e9:.2f}"] for p in configs(settings)]
    if args.json:
        keys = ("name", "kind", "gigabytes")
        print(json.dumps([dict(zip(keys, row, strict=True)) for row in rows], ensure_ascii=False, indent=2))
    elif rows:
        from ui.table import table

        header = [pick("名称", "name"), pick("种类", "kind"), "GB"]
        print(f"{settings.models}\n\n" + table(header, rows, right=[2]))
    else:
        print(
            pick(
                f"{settings.models} 里还没有模型。下载：zhiwen models pull chatglm3-6b",
                f"No models in {settings.models} yet. Fetch one: zhiwen models pull chatglm3-6b",
            )
        )
    return 0


def configs(settings: Settings) -> list[Path]:
    """The config.json of every model in the models folder."""
    return sorted(settings.models.glob("*/config.json")) if settings.models.is_dir() else []


def kind_of(folder: Path) -> str:
    """What a model folder is good for."""
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type", "?")
    except (OSError, ValueError, AttributeError):
        return pick("配置无法读取", "unreadable config.json")
    if kind == "glm":
        return pick("ChatGLM，可用", "ChatGLM, ready")
    if kind == "chatglm":
        return pick("ChatGLM 官方格式，需转换", "ChatGLM, official layout: convert it")
    return (
        pick(f"向量模型（{kind}）", f"embedding model ({kind})")
        if (folder / "modules.json").is_file()
        else str(kind)
    )


def size_of(folder: Path) -> int:
    """Bytes of all files."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def typed(path: Path) -> str:
    """A path as it must be typed: quoted if it holds blanks or brackets."""
    return shlex.quote(str(path))


def run_pull(args: argparse.Namespace) -> int:
    """Fetch, then say what comes next."""
    from rag.chatglm3.pull import PullConfig, pull

    settings = arguments.settings_of(args)
    name = args.model.rsplit("/", 1)[-1]
    glm = "chatglm" in name.lower()
    target = args.to or settings.models / (f"{name}-official" if glm else name)
    endpoint = args.endpoint or (settings.hub.endpoint if args.hub == "huggingface" else "")
    config = PullConfig(hub=args.hub, endpoint=endpoint, revision=args.revision, offline=settings.hub.offline)
    with byte_progress(pick("下载", "fetching")) as show:
        report = pull(args.model, target=target, config=config, progress=show)
    size, new = report.bytes / 1e9, report.fetched / 1e9
    print(
        pick(
            f"{report.folder}：{report.files} 个文件，{size:.2f} GB（本次下载 {new:.2f} GB），大小与哈希已核对",
            f"{report.folder}: {report.files} files, {size:.2f} GB ({new:.2f} GB fetched now), sizes and hashes checked",
        )
    )
    if glm:
        print(
            pick("下一步：", "next: ")
            + f"zhiwen models convert {typed(target)} {typed(settings.models / name)}"
        )
    else:
        print(pick("下一步：", "next: ") + f"zhiwen settings set embedder.model {typed(target.absolute())}")
    return 0


def run_convert(args: argparse.Namespace) -> int:
    """Convert, then say what comes next."""
    from rag.chatglm3.convert import convert, parse_dtype

    with byte_progress(pick("转换", "converting")) as show:
        report = convert(
            args.source,
            target=args.target,
            dtype=parse_dtype(args.dtype),
            family=args.family,
            tokenizer=args.tokenizer,
            overwrite=args.overwrite,
            progress=show,
        )
    count, size = f"{report.shape.parameters:,}", report.bytes / 1e9
    print(
        pick(
            f"{report.folder}：{report.tensors} 个张量，{count} 个参数，{size:.2f} GB",
            f"{report.folder}: {report.tensors} tensors, {count} parameters, {size:.2f} GB",
        )
    )
    print(
        pick("核对：", "check:  ")
        + f"zhiwen models verify {typed(args.target)} --official {typed(args.source)}"
    )
    print(
        pick("使用：", "use:    ") + "zhiwen settings set generator.kind chatglm3 && "
        f"zhiwen settings set generator.model {typed(args.target.absolute())}"
    )
    return 0


def run_verify(args: argparse.Namespace) -> int:
    """One line for each check."""
    from rag.chatglm3.verify import verify

    def tell(step: str) -> None:
        if sys.stderr.isatty():
            print(f"\r{step} …\x1b[K", end="", file=sys.stderr, flush=True)

    report = verify(args.folder, official=args.official, progress=tell)
    tell("")
    if args.json:
        checks = [{"check": c.name, "ok": c.ok, "zh": c.zh, "en": c.en} for c in report.checks]
        print(
            json.dumps(
                {"folder": str(report.folder), "ok": report.ok, "checks": checks},
                ensure_ascii=False,
                indent=2,
            )
        )
    else:
        for check in report.checks:
            print(f"{'✓' if check.ok else '✗'} {check.name:9} {pick(check.zh, check.en)}")
    return 0 if report.ok else 1


def run_export(args: argparse.Namespace) -> int:
    """Write the official layout."""
    from finetune.start import made_at
    from rag.chatglm3.export import export

    adapter = made_at(str(args.adapter), flag="--adapter") if args.adapter else None
    with byte_progress(pick("导出", "exporting")) as show:
        folder = export(
            args.source, target=args.target, adapter=adapter, overwrite=args.overwrite, progress=show
        )
    print(pick(f"已写入官方格式：{folder}", f"written in the official layout: {folder}"))
    return 0


def run_import(args: argparse.Namespace) -> int:
    """Convert an old adapter."""
    from rag.chatglm3.import_adapter import import_adapter

    folder = import_adapter(args.source, target=args.target, base=args.base, overwrite=args.overwrite)
    print(pick(f"PEFT 适配器：{folder}", f"PEFT adapter: {folder}"))
    print(pick("使用：", "use: ") + f"zhiwen settings set generator.adapter {typed(folder.absolute())}")
    return 0


@contextmanager
def byte_progress(what: str) -> Iterator[Callable[[int, int, str], None]]:
    """A bar over bytes on stderr; silent where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total, name: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[file]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, file="")

        def show(done: int, total: int, name: str) -> None:
            bar.update(task, completed=done, total=total, file=name)

        yield show
