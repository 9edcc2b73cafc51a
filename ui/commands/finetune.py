"""`zhiwen finetune`: train an adapter from a config file and flags; plan it, resume it, stop it, list runs."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kb.errors import SettingsError
from ui import arguments
from ui.text import pick

if TYPE_CHECKING:
    from finetune.config import RunConfig
    from finetune.plan import Plan
    from finetune.run import RunInfo

STATES_ZH = {
    "new": "未开始", "running": "进行中", "stopped": "已停止", "done": "完成", "failed": "失败", "killed": "被中断",
}  # fmt: skip
"""What a run's state is called in Chinese."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, and every option as a flag."""
    from ui.train_options import add_flags

    parser.add_argument(
        "config", nargs="?", type=Path, metavar="CONFIG.toml", help=pick("配置文件", "config file")
    )
    parser.add_argument(
        "--plan",
        action="store_true",
        help=pick("只估算 token、步数、内存和时间", "only say tokens, steps, memory and hours"),
    )
    parser.add_argument(
        "--resume", type=Path, metavar="RUN", help=pick("从最后的检查点续训", "go on with a run")
    )
    parser.add_argument(
        "--stop", type=Path, metavar="RUN", help=pick("保存后停止一个运行", "save and stop a run")
    )
    parser.add_argument("--list", action="store_true", help=pick("列出所有运行", "list all runs"))
    parser.add_argument(
        "--background", action="store_true", help=pick("在后台进程里训练", "train in a process of its own")
    )
    parser.add_argument(
        "--gpus",
        type=arguments.positive,
        default=1,
        metavar="N",
        help=pick("用几块显卡一起训练（每块一个进程）", "train on N GPUs, a process for each"),
    )
    arguments.add_home(parser)
    arguments.add_json(parser)
    add_flags(parser)
    arguments.example(
        parser,
        "zhiwen finetune data/configs/zhouyi.toml --plan",
        "zhiwen finetune --resume runs/zhouyi-20261121-120000",
        "zhiwen finetune data/configs/tiny-cpu.toml",
        "zhiwen finetune data/configs/zhouyi.toml --gpus 2",
    )


def run(args: argparse.Namespace) -> int:
    """0 done; 130 stopped on request, to be resumed."""
    from finetune import run as runs
    from finetune.prepare import with_model
    from ui.train_options import read_config

    if args.list:
        return _list(Path(args.option_output_dir or "runs"), as_json=args.json)
    if args.stop is not None:
        if (state := runs.info(args.stop).state) not in ("new", "running"):
            raise SettingsError(
                f"{args.stop} is not running: {state}.", zh=f"{args.stop} 没有在训练：{STATES_ZH[state]}。"
            )
        runs.stop(args.stop)
        text = pick("已请求停止，当前步完成后保存。", "Asked to stop; it saves after the step at hand.")
        arguments.said(args, text, folder=args.stop, asked="stop")
        return 0
    if args.resume is not None:
        _check_gpus(runs.read_config(args.resume), args.gpus)
        if args.background:
            return _told(runs.resume(args.resume, gpus=args.gpus), args)
        runs.may_resume(args.resume)
        return _train(args.resume, args)
    settings = arguments.settings_of(args)
    base = str(settings.generator_folder) if settings.generator.here else ""
    config = with_model(read_config(args.config, args), home=settings.home)
    if not config.data.model_name_or_path:
        config = replace(config, data=replace(config.data, model_name_or_path=base))
    if args.plan:
        return _plan(config, as_json=args.json, gpus=args.gpus)
    _check_gpus(config, args.gpus)
    _check_base(config)
    if not args.json:
        _say_tiny(config)
    if args.background:
        return _told(runs.start(config, gpus=args.gpus), args)
    return _train(runs.create(config), args)


def _check_base(config: RunConfig) -> None:
    """What the base or its template cannot do, said before a run folder is made. Raises ZhiwenError."""
    from finetune.bases import chat_of, settled
    from finetune.start import with_start
    from rag.types import Message

    chat = chat_of(settled(with_start(config))[0])
    if config.data.stage != "pt":  # a template that cannot be masked says so here
        chat.example((Message("user", "?"), Message("assistant", ".")))


def _check_gpus(config: RunConfig, gpus: int) -> None:
    """Before anything is started. Raises SettingsError."""
    if gpus == 1 or config.train.device == "cpu":
        return
    import torch

    there = torch.cuda.device_count()
    if gpus > there:
        raise SettingsError(
            f"--gpus {gpus}: this machine has {there} GPUs. To try it without: --device cpu.",
            zh=f"--gpus {gpus}：本机有 {there} 块显卡。没有显卡时可加 --device cpu 试用。",
        )


def _say_tiny(config: RunConfig) -> None:
    if Path(config.data.model_name_or_path).name.startswith("tiny-"):
        print(
            pick(
                f"使用极小的随机模型（{config.data.model_name_or_path}）：它只会说学到的话。",
                f"Using a tiny random model ({config.data.model_name_or_path}): it can only say what it learns.",
            )
        )


def _told(found: RunInfo, args: argparse.Namespace) -> int:
    from finetune.run import describe

    begun = pick(f"已在后台开始：{found.folder}", f"Started in the background: {found.folder}")
    stop = pick(
        f"停止：zhiwen finetune --stop {found.folder}", f"stop it: zhiwen finetune --stop {found.folder}"
    )
    arguments.said(args, f"{begun}\n{stop}", **describe(found))
    return 0


def _train(folder: Path, args: argparse.Namespace) -> int:
    """Train before people's eyes; with --json what is said goes to stderr and the run is printed at the end."""
    from contextlib import nullcontext, redirect_stdout

    from finetune.run import describe, info

    with redirect_stdout(sys.stderr) if args.json else nullcontext():
        code = _train_shown(folder, gpus=args.gpus)
    if args.json:
        found = info(folder)
        made = {"adapter": str(found.adapter) if found.adapter else None}
        print(json.dumps(describe(found) | made, ensure_ascii=False, indent=2))
    return code


def _train_shown(folder: Path, *, gpus: int) -> int:
    from finetune.run import read_config
    from finetune.train import train
    from rag.templates import is_chatglm
    from ui.train_show import watching
    from ui.train_together import train_on

    config = read_config(folder)
    print(pick(f"运行文件夹：{folder}", f"Run folder: {folder}"))
    with watching() as listen:
        if gpus > 1:
            adapter, metrics = train_on(gpus, folder=folder, listen=listen)
        else:
            result = train(folder, listen=listen)
            adapter, metrics = result.adapter, result.metrics
    if adapter is None:
        more = f" --gpus {gpus}" if gpus > 1 else ""
        print(pick("续训：", "go on: ") + f"zhiwen finetune --resume {folder}{more}")
        return 130
    rows = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    print(pick(f"完成。{rows}", f"Done. {rows}"))
    base = config.data.model_name_or_path
    if config.data.stage == "rm":
        print(pick(f"奖励模型：{adapter}", f"Reward model: {adapter}"))
        print(pick("给回答打分：", "Score answers with it:"))
        print(f"  zhiwen score {adapter} " + pick("问题 回答1 回答2", "QUESTION ANSWER1 ANSWER2"))
        print(pick("让它教一个适配器：", "Let it teach an adapter:"))
        print(f"  zhiwen finetune CONFIG.toml --stage ppo --reward-model {folder}")
        return 0
    if adapter.name == "model":
        print(pick(f"模型文件夹：{adapter}", f"Model folder: {adapter}"))
        base, flag = str(adapter), ""
    else:
        print(pick(f"适配器：{adapter}", f"Adapter: {adapter}"))
        flag = f" --adapter {adapter}"
    print(pick("用它回答：", "Answer with it:"))
    kind = "chatglm3" if is_chatglm(Path(base)) else "local"
    print(f"  zhiwen settings set generator.kind {kind} && zhiwen settings set generator.model {base}")
    print(f"  zhiwen ask{flag} " + pick("问题", "QUESTION"))
    return 0


def _list(parent: Path, *, as_json: bool) -> int:
    from finetune import run as runs
    from ui.table import table

    found = runs.list_runs(parent)
    if as_json:
        print(json.dumps([runs.describe(r) for r in found], ensure_ascii=False, indent=2))
        return 0
    if not found:
        print(pick(f"{parent} 里没有运行。", f"No runs in {parent}."))
        return 0
    head = [
        pick(*h)
        for h in (("运行", "run"), ("状态", "state"), ("步", "step"), ("损失", "loss"), ("方法", "method"))
    ]
    rows = [
        [
            r.folder.name,
            pick(STATES_ZH[r.state], r.state),
            f"{r.step}/{r.total}",
            "" if r.loss is None else f"{r.loss:.4f}",
            r.method,
        ]
        for r in found
    ]
    print(table(head, rows, right=(2, 3)))
    return 0


def _plan(config: RunConfig, *, as_json: bool, gpus: int) -> int:
    from finetune.plan import make_plan

    plan = make_plan(replace(config), gpus=gpus)
    if as_json:
        print(json.dumps(plan.as_json(), ensure_ascii=False, indent=2))
        return 0 if plan.fits else 1
    for line in plan_lines(plan):
        print(line)
    return 0 if plan.fits else 1


def plan_lines(plan: Plan) -> list[str]:
    """The plan in words, in the language in force."""
    gib, layout, share = 2**30, plan.layout, 100 * plan.trainable / plan.parameters
    need = plan.need
    time_zh = f"{plan.seconds / 3600:.1f} 小时" if plan.seconds > 5400 else f"{plan.seconds / 60:.1f} 分钟"
    time_en = (
        f"{plan.seconds / 3600:.1f} hours" if plan.seconds > 5400 else f"{plan.seconds / 60:.1f} minutes"
    )
    how_zh = (
        ("打包" if layout.packed else "补齐")
        + ("，重算" if layout.recompute else "")
        + ("，编译" if layout.compiled else "")
        + ("，融合内核" if layout.kernels else "")
    )
    how_en = (
        ("packed" if layout.packed else "padded")
        + (", recomputing" if layout.recompute else "")
        + (", compiled" if layout.compiled else "")
        + (", fused layers" if layout.kernels else "")
    )
    parts = [x / gib for x in (need.weights, need.trained, need.kept, need.working)]
    together = [
        pick(
            f"{plan.gpus} 块显卡（{plan.parallel}），每步的样本分给它们；下面的内存是每块的",
            f"{plan.gpus} GPUs ({plan.parallel}) share the examples of a step; the memory below is that of each",
        )
    ][: plan.gpus - 1]
    lines = [
        pick(
            f"模型 {plan.model}：{plan.parameters:,} 个参数，{plan.method} 训练 {plan.trainable:,} 个（{share:.2f}%）",
            f"Model {plan.model}: {plan.parameters:,} weights, {plan.method} trains {plan.trainable:,} ({share:.2f}%)",
        ),
        pick(
            f"数据 {plan.examples:,} 条，每轮 {plan.tokens:,} token（其中学习 {plan.trained_tokens:,}），最长 {plan.longest}",
            f"Data: {plan.examples:,} examples, {plan.tokens:,} tokens an epoch ({plan.trained_tokens:,} trained), "
            f"longest {plan.longest}",
        ),
        pick(
            f"步数 {plan.steps:,}（{plan.epochs:.1f} 轮，每步 {plan.per_step} 条），每行 {layout.tokens:,} token（{how_zh}）",
            f"Steps: {plan.steps:,} ({plan.epochs:.1f} epochs, {plan.per_step} examples a step), rows of {layout.tokens:,} "
            f"tokens ({how_en})",
        ),
        *together,
        pick(
            f"内存约 {need.total / gib:.2f} GiB（权重 {parts[0]:.2f}，训练 {parts[1]:.2f}，激活 {parts[2]:.2f}，其他 "
            f"{parts[3]:.2f}），{plan.device} 可用 {plan.free / gib:.1f} GiB",
            f"Memory: about {need.total / gib:.2f} GiB (weights {parts[0]:.2f}, trained {parts[1]:.2f}, activations "
            f"{parts[2]:.2f}, other {parts[3]:.2f}), {plan.free / gib:.1f} GiB free on {plan.device}",
        ),
        pick(f"时间约 {time_zh}", f"Time: about {time_en}"),
    ]
    if plan.fits:
        return [*lines, pick("放得下。", "It fits.")]
    changes = [pick(zh, en) for zh, en in zip(plan.changes_zh, plan.changes_en, strict=True)]
    return [
        *lines,
        pick("放不下。任选其一：", "It does not fit. One of these:"),
        *(f"  {c}" for c in changes),
    ]
