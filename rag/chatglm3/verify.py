"""The proof that a converted folder is right: files, shapes, hashes, token ids, a forward pass, and equality.

Memory stays small whatever the size of the model: tensors are read one at a time, and the forward pass goes through one
layer after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kb.errors import ModelError
from rag.chatglm3 import names, shards
from rag.chatglm3.chat import open_tokenizer
from rag.chatglm3.folder import PROVENANCE, sha256_of
from rag.chatglm3.forward import streamed_logits
from rag.chatglm3.shape import GlmShape, read_json, read_native, read_official
from rag.types import Message

GOLDEN_PIECES = 64_789
GOLDEN_IDS = {
    "": [],
    " ": [265],
    "你好": [36474, 54591],
    "Hello world": [13755, 993],
    "乾卦是什么？": [30910, 56748, 57472, 32664, 31514],
    "[gMASK]sop": [790, 30927, 30944, 2080, 30984, 30996, 30917, 404],
    "<|user|>": [906, 31007, 4865, 31007, 30994],
}
"""What the official tokenizer answers."""
GOLDEN_CHAT = [64790, 64792, 64795, 30910, 13, 36474, 54591, 64796]
"""The prompt for one user turn, 你好."""
_SAMPLES = ("你好", " two  spaces ", "a\r\nb\t中文🐉𠮷", "<|user|>\n[gMASK]sop</s>", "１２３ 123.45", "")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    """files, shapes, hashes, tokens, forward, equality."""
    ok: bool
    zh: str
    en: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """All checks, in the order in which they were made."""

    folder: Path
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether the folder can be relied on."""
        return all(check.ok for check in self.checks)


def verify(
    folder: Path, *, official: Path | None = None, progress: Callable[[str], None] | None = None
) -> VerifyReport:
    """Check a converted folder; with `official` also tensor by tensor against its source.

    Raises ModelError if it is no converted folder at all; what is merely wrong is told in the report.
    """
    shape = read_native(folder)
    steps: list[tuple[str, Callable[[], Check]]] = [
        ("shapes", lambda: check_shapes(folder, shape)),
        ("hashes", lambda: check_hashes(folder)),
        ("tokens", lambda: check_tokens(folder)),
        ("forward", lambda: check_forward(folder, shape)),
    ]
    if official is not None:
        steps.append(("equality", lambda: check_equality(folder, official, shape)))
    done = []
    for name, step in steps:
        if progress is not None:
            progress(name)
        try:
            done.append(step())
        except ModelError as error:
            done.append(Check(name, False, error.zh, error.message))
            if name == "shapes":  # nothing after this could be read
                break
    return VerifyReport(folder, tuple(done))


def check_shapes(folder: Path, shape: GlmShape) -> Check:
    """Every tensor is there with its shape, and every file has exactly the bytes that its header says."""
    checkpoint, expected = shards.find_checkpoint(folder), names.native_shapes(shape)
    found: dict[str, tuple[int, ...]] = {}
    total, wrong = 0, []
    for file in checkpoint.files:
        header = shards.read_header(folder / file)
        found |= {name: tuple(entry["shape"]) for name, entry in header.tensors.items()}
        total += header.bytes
        if (folder / file).stat().st_size != header.size:
            wrong.append(f"{file}: {(folder / file).stat().st_size} bytes, header says {header.size}")
    wrong += [f"missing {name}" for name in expected if name not in found]
    wrong += [f"unknown {name}" for name in found if name not in expected]
    wrong += [
        f"{name} is {found[name]}, should be {size}"
        for name, size in expected.items()
        if name in found and found[name] != size
    ]
    if wrong:
        more = f" (+{len(wrong) - 3})" if len(wrong) > 3 else ""
        text = "; ".join(wrong[:3]) + more
        return Check("shapes", False, f"张量不对：{text}", f"tensors are wrong: {text}")
    return Check(
        "shapes",
        True,
        f"{len(found)} 个张量，{shape.parameters:,} 个参数，{total:,} 字节",
        f"{len(found)} tensors, {shape.parameters:,} parameters, {total:,} bytes",
    )


def check_hashes(folder: Path) -> Check:
    """Files are what the conversion wrote, by sha256."""
    if not (folder / PROVENANCE).is_file():
        return Check(
            "hashes",
            True,
            "没有 provenance.json，无从核对（不是由 zhiwen 转换的）",
            "no provenance.json to compare with (not converted by zhiwen)",
        )
    written = read_json(folder / PROVENANCE).get("files_sha256")
    known = {str(k): str(v) for k, v in written.items()} if isinstance(written, dict) else {}
    wrong = [
        name
        for name, digest in known.items()
        if Path(name).name != name or not (folder / name).is_file() or sha256_of(folder / name) != digest
    ]
    if wrong or not known:
        text = ", ".join(wrong) or PROVENANCE
        return Check("hashes", False, f"与转换时不同：{text}", f"changed since the conversion: {text}")
    return Check("hashes", True, f"{len(known)} 个文件未变", f"{len(known)} files unchanged")


def check_tokens(folder: Path) -> Check:
    """Ids equal to the official answers (official vocabulary), and to SentencePiece on awkward texts."""
    if not (folder / "tokenizer.json").is_file():
        return Check("tokens", False, "没有分词器", "there is no tokenizer")
    tokenizer = open_tokenizer(folder)
    wrong = []
    golden = tokenizer.specials.mask == GOLDEN_PIECES
    if golden:
        wrong += [repr(text) for text, ids in GOLDEN_IDS.items() if tokenizer.encode(text) != ids]
        chat = tokenizer.prompt([Message("user", "你好")]).ids
        wrong += ["chat"] if tokenizer.family == "chatglm3" and chat != GOLDEN_CHAT else []
    if (folder / "tokenizer.model").is_file():
        import sentencepiece

        try:
            reference: Any = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        except RuntimeError as error:
            return Check(
                "tokens", False, f"tokenizer.model 已损坏：{error}", f"tokenizer.model is broken: {error}"
            )
        wrong += [repr(t) for t in _SAMPLES if tokenizer.encode(t) != list(reference.encode(t))]
    if wrong:
        text = ", ".join(wrong)
        return Check("tokens", False, f"词元编号不对：{text}", f"token ids differ: {text}")
    what = (
        ("与官方答案一致", "equal to the official answers")
        if golden
        else ("非官方词表", "not the official vocabulary")
    )
    return Check("tokens", True, f"词元编号正确（{what[0]}）", f"token ids are right ({what[1]})")


def check_forward(folder: Path, shape: GlmShape) -> Check:
    """A pass through all layers gives finite logits that differ from token to token."""
    ids = [(37 * i + 11) % min(shape.vocabulary, 60_000) for i in range(8)]
    try:
        logits = streamed_logits(folder, ids=ids, shape=shape)
    except (AttributeError, LookupError, TypeError, ValueError) as error:  # values of config.json
        return Check(
            "forward", False, f"前向计算无法进行：{error!r}", f"the forward pass cannot be made: {error!r}"
        )
    finite, spread = bool(logits.isfinite().all()), float(logits.float().std())
    if not finite or spread < 1e-6:
        return Check("forward", False, "前向计算得到无效的数值", "the forward pass gives unusable numbers")
    best = int(logits[-1].argmax())
    return Check(
        "forward",
        True,
        f"{len(ids)} 个词元的前向计算正常（最可能的下一个：{best}）",
        f"a forward pass over {len(ids)} tokens is sound (likeliest next: {best})",
    )


def check_equality(folder: Path, official: Path, shape: GlmShape) -> Check:
    """Every official tensor equals what the folder holds of it (cast to the folder's dtype)."""
    import torch

    source = read_official(official, family=shape.family)
    ours, seen = shards.TensorReader(folder), set()
    for name, tensor in official_tensors(official):
        for part in names.native_parts(name, shape=source):
            mine = ours.get(part.name)
            if mine is None or not torch.equal(tensor[part.start : part.end].to(mine.dtype), mine):
                return Check(
                    "equality", False, f"{part.name} 与官方不同", f"{part.name} differs from the official one"
                )
            seen.add(part.name)
    missing = set(names.native_shapes(shape)) - seen
    if missing:
        return Check(
            "equality", False, f"官方文件夹缺少 {min(missing)}", f"the official folder lacks {min(missing)}"
        )
    return Check(
        "equality", True, f"{len(seen)} 个张量与官方相同", f"{len(seen)} tensors equal the official ones"
    )


def official_tensors(folder: Path) -> Iterator[tuple[str, Any]]:
    """Every tensor of an official folder."""
    for file in shards.find_checkpoint(folder).files:
        yield from shards.read_tensors(folder / file)
