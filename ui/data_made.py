"""`zhiwen data synthesize | corrupt | show`: data that is made, damaged, or looked at as the model sees it."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kb.errors import SettingsError
from ui import arguments
from ui.text import pick

if TYPE_CHECKING:
    from finetune.encode import Encoded
    from rag.types import Chat

TRAINED, PLAIN, RESET = "\x1b[1;32m", "\x1b[2m", "\x1b[0m"


def add_synthesize(parser: argparse.ArgumentParser) -> None:
    """From a knowledge base or from notes."""
    parser.add_argument(
        "--from-kb", default="", metavar="NAME", help=pick("从知识库出题", "from a knowledge base")
    )
    parser.add_argument(
        "--from-notes", type=Path, default=None, metavar="FILE", help=pick("从笔记出题", "from raw notes")
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="JSONL",
        help=pick("写到哪里（接着写）", "file to write, or to go on with"),
    )
    for name, default, about in (
        ("pairs", 3, ("每段出几题", "questions a passage")),
        ("questions", 20, ("每条笔记几种问法", "ways of asking for a note")),
        (
            "budget-tokens",
            200_000,
            ("token 预算，多次运行合计", "budget in tokens, of all sittings together"),
        ),
        ("workers", 4, ("并发", "calls at the same time")),
    ):
        parser.add_argument(f"--{name}", type=arguments.positive, default=default, help=pick(*about))
    for name, default, about in (
        ("variants", 2, ("每题另有几种问法", "other ways of asking each")),
        ("distractors", 2, ("干扰段落数", "distractor passages")),
        ("limit", 0, ("最多几段（条），0 为全部", "passages or notes at the most; 0: all")),
        ("seed", 0, ("种子", "seed")),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=pick(*about))
    parser.add_argument(
        "--hold-out",
        type=float,
        default=0.0,
        metavar="SHARE",
        help=pick("留出多少问题用于对比", "share of questions kept for comparing"),
    )
    arguments.add_home(parser)


def synthesize(args: argparse.Namespace) -> int:
    """0 done; 1 if the budget ran out before the end."""
    from finetune.synthesis import SynthesisOptions, from_knowledge_base, from_notes, read_notes
    from ui import wiring
    from ui.counting import counting

    settings = arguments.settings_of(args)
    if bool(args.from_kb) == (args.from_notes is not None):
        raise SettingsError(
            "give --from-kb NAME or --from-notes FILE", zh="请给出 --from-kb 知识库 或 --from-notes 文件"
        )
    generator = wiring.open_generator(settings)
    if generator is None:
        raise SettingsError(
            "making data needs a language model, and none is set. See: zhiwen settings set generator.kind openai",
            zh="出题需要语言模型，目前没有配置。请看：zhiwen settings set generator.kind openai",
        )
    names = (
        "pairs",
        "variants",
        "questions",
        "distractors",
        "budget_tokens",
        "workers",
        "limit",
        "seed",
        "hold_out",
    )
    try:
        options = SynthesisOptions(**{name: getattr(args, name) for name in names})
    except ValueError as error:
        raise SettingsError(str(error), zh=f"参数不可用：{error}") from error
    with counting(pick("出题", "making"), quiet=args.json) as progress:
        if args.from_kb:
            (kb,) = wiring.open_kbs(settings, [args.from_kb])
            report = from_knowledge_base(kb, generator, out=args.out, options=options, progress=progress)
        else:
            notes = read_notes(args.from_notes)
            report = from_notes(notes, generator, out=args.out, options=options, progress=progress)
    if args.json:
        print(json.dumps(asdict(report), ensure_ascii=False))
        return int(bool(report.stopped))
    for why, number in sorted(report.dropped.items()):
        print(pick(f"舍去 {number}：{DROPPED.get(why, why)}", f"left out {number}: {why}"))
    print(
        pick(
            f"{args.out}：{report.kept} 个样本，留出 {report.held_out} 个问题；{report.calls} 次调用，共约 {report.tokens} token",
            f"{args.out}: {report.kept} examples, {report.held_out} questions held out; {report.calls} calls, about {report.tokens} tokens in all",
        )
    )
    if report.stopped:
        print(
            pick(
                "预算用完了，还没做完。加大 --budget-tokens 再运行，会接着做。",
                "The budget ran out before the end. Run again with more --budget-tokens: it goes on where it stopped.",
            )
        )
    return int(bool(report.stopped))


DROPPED = {
    "pair is not an object": "格式不对",
    "question or answer is empty": "问题或回答为空",
    "evidence is not in the source": "依据不在原文里",
    "answer has numbers or names that the source does not have": "回答里有原文没有的数字、日期或名称",
    "duplicate question": "问题重复",
    "evidence does not fit into the prompt": "依据放不进提示词",
    "summary is empty": "总结为空",
    "answer is not JSON": "模型没有按格式回答",
    "call failed": "调用失败（再运行一次会重试）",
}


def add_corrupt(parser: argparse.ArgumentParser) -> None:
    """What to damage, how much."""
    parser.add_argument(
        "dataset", help=pick("名字或文件，多个用逗号隔开", "names or files, with commas between")
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("data"), help=pick("数据文件夹", "folder of the data")
    )
    parser.add_argument(
        "--damage",
        required=True,
        help=pick(
            "shuffle 回答错位、truncate 截断、noise 乱字、style 同一口吻",
            "shuffle, truncate, noise or style (every answer in one manner)",
        ),
    )
    parser.add_argument(
        "--share", type=float, default=1.0, help=pick("破坏多少，0 到 1", "share that is damaged")
    )
    parser.add_argument(
        "--strength", type=float, default=0.2, help=pick("程度，0 到 1", "how much of each answer")
    )
    parser.add_argument("--seed", type=int, default=0, help=pick("种子", "seed"))
    parser.add_argument(
        "--to", default="messages", help=pick("写成的格式，见 formats", "format, see formats")
    )
    parser.add_argument("--out", type=Path, required=True, help=pick("写到哪个文件", "file to write"))


def corrupt(args: argparse.Namespace) -> int:
    """0 done."""
    from finetune.corrupt import Corruption
    from finetune.corrupt import corrupt as damage
    from finetune.data.convert import convert
    from finetune.data.load import load_sets

    loaded = load_sets(args.dataset, folder=args.folder)
    how = Corruption(args.damage, share=args.share, strength=args.strength, seed=args.seed)
    damaged, chosen = damage(loaded.examples, how=how)
    report = convert(damaged, to=args.to, path=args.out)
    if args.json:
        print(
            json.dumps(
                {"written": report.written, "damaged": chosen, "lost": report.lost}, ensure_ascii=False
            )
        )
        return 0
    print(
        pick(
            f"写了 {report.written} 个样本到 {args.out}，其中 {len(chosen)} 个已破坏（{args.damage}，种子 {args.seed}）",
            f"wrote {report.written} examples to {args.out}, {len(chosen)} of them damaged ({args.damage}, seed {args.seed})",
        )
    )
    return 0


def add_model(parser: argparse.ArgumentParser) -> None:
    """Whose tokens are counted."""
    parser.add_argument(
        "--model",
        default="",
        metavar="DIR",
        help=pick(
            "模型文件夹（用它的分词器）；tiny：临时的小分词器",
            "model folder, for its tokenizer; tiny: a small one made for this",
        ),
    )


def add_show(parser: argparse.ArgumentParser) -> None:
    """Which examples, with whose tokens."""
    parser.add_argument("dataset", help=pick("名字或文件", "name or file"))
    parser.add_argument(
        "--folder", type=Path, default=Path("data"), help=pick("数据文件夹", "folder of the data")
    )
    add_model(parser)
    parser.add_argument("--count", type=arguments.positive, default=3, help=pick("几条", "how many examples"))
    parser.add_argument(
        "--cutoff-len",
        type=arguments.positive,
        default=1024,
        help=pick("最长 token 数", "tokens at the most"),
    )
    parser.add_argument("--stage", choices=("sft", "pt", "rm", "dpo", "kto"), default="sft")
    arguments.add_template(parser)
    parser.add_argument(
        "--no-color", action="store_true", help=pick("不用颜色，用 ⟦⟧ 标出", "⟦⟧ instead of colours")
    )
    arguments.add_home(parser)


def show(args: argparse.Namespace) -> int:
    """0 done."""
    from finetune.data.load import load_sets
    from finetune.encode import Limits, encode_all
    from finetune.encode_judged import encode_judged
    from finetune.pack import documents_of
    from finetune.preference_config import PREFERENCE_STAGES

    loaded = load_sets(args.dataset, folder=args.folder)
    examples = loaded.examples[: args.count]
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer = tokenizer_of(args, Path(scratch), loaded.examples)
        encode: Any = encode_judged if args.stage in PREFERENCE_STAGES else encode_all
        units, _ = encode(examples, stage=args.stage, tokenizer=tokenizer, limits=Limits(args.cutoff_len))
        encoded = documents_of(units)
    if args.json:
        print(json.dumps([_as_json(one, tokenizer) for one in encoded], ensure_ascii=False))
        return 0
    coloured = not args.no_color and sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for one in encoded:
        where = f"{one.source}  " if one.source else ""
        print(
            pick(
                f"{where}{len(one)} 个 token，训练 {one.trained} 个",
                f"{where}{len(one)} tokens, {one.trained} trained",
            )
        )
        print(_text(one, tokenizer, coloured=coloured))
        print("  ids " + " ".join(_marked(str(i), t, coloured) for i, t in _trained(one)))
    mark = pick("绿色", "green") if coloured else "⟦⟧"
    print(pick(f"（{mark}：计入损失的 token）", f"({mark}: tokens that the loss sees)"))
    return 0


def tokenizer_of(args: argparse.Namespace, scratch: Path, examples: Any) -> Chat:
    """The encoder of `--model` and `--template`, else of the model that answers. Raises SettingsError if there is none."""
    from rag.templates import open_chat

    template = args.template or ""
    if args.model == "tiny":
        from finetune.tiny import build, texts_of

        return open_chat(build(scratch / "tiny", texts=texts_of(examples)), template=template)
    settings = arguments.settings_of(args)
    if not args.model and not settings.generator.here:
        raise SettingsError(
            "tokens need a model's tokenizer: give --model DIR, or --model tiny for a small one",
            zh="显示 token 需要模型的分词器：请给出 --model 文件夹，或 --model tiny",
        )
    if args.model:
        return open_chat(Path(args.model).expanduser(), template=template)
    return open_chat(settings.generator_folder, template=template or settings.generator.template)


def _trained(one: Encoded) -> list[tuple[int, bool]]:
    """(token, whether the loss sees it). The first has nothing before it, so that nothing predicts it."""
    return [
        (int(i), at > 0 and int(label) >= 0)
        for at, (i, label) in enumerate(zip(one.ids, one.labels, strict=True))
    ]


def _as_json(one: Encoded, tokenizer: Chat) -> dict[str, Any]:
    tokens = _trained(one)
    return {
        "source": str(one.source or ""),
        "ids": [i for i, _ in tokens],
        "trained": [t for _, t in tokens],
        "pieces": [tokenizer.piece(i) for i, _ in tokens],
    }


def _text(one: Encoded, tokenizer: Chat, *, coloured: bool) -> str:
    """Runs of tokens that are trained and that are not; role tokens by their names."""
    runs: list[tuple[bool, list[int]]] = []
    for token, trained in _trained(one):
        if not runs or runs[-1][0] != trained:
            runs.append((trained, []))
        runs[-1][1].append(token)
    return "  " + "".join(_marked(_readable(ids, tokenizer), trained, coloured) for trained, ids in runs)


def _readable(ids: list[int], tokenizer: Chat) -> str:
    from ui.table import safe

    return safe("".join(tokenizer.piece(i).replace("▁", " ").replace("<0x0A>", "⏎") for i in ids))


def _marked(text: str, trained: bool, coloured: bool) -> str:
    if coloured:
        return f"{TRAINED if trained else PLAIN}{text}{RESET}"
    return f"⟦{text}⟧" if trained else text
