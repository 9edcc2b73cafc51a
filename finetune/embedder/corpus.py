"""Reads the reference folder into training pairs: a question and the chunk that answers it, a heading and its text."""

from __future__ import annotations

import json
import random
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kb.errors import DataError

CHUNK = 180
"""Characters of a training chunk at most; the product's chunks are of about this size."""
_ENDS = re.compile(r"(?<=[。！？!?；;\n])")
_ARTICLE = re.compile(r"^(第[一二三四五六七八九十百千零]+条(?:之[一二三四五六七八九十]+)?)[\s　]*")


@dataclass(frozen=True, slots=True)
class Pair:
    """A query and a text that belongs to it."""

    query: str
    passage: str
    group: str
    """Pairs of one group are never each other's negatives (same passage, same article)."""


@dataclass(frozen=True, slots=True)
class Source:
    """One set of training pairs."""

    name: str
    pairs: tuple[Pair, ...]
    texts: tuple[str, ...]
    """Running text for the vocabulary and the co-occurrence counts."""
    share: float
    """Of the batches of one run, before normalising over sources."""


def sentences(text: str) -> list[str]:
    """Cut after sentence ends; nothing is lost but surrounding white space."""
    return [piece.strip() for piece in _ENDS.split(text) if piece.strip()]


def chunks(text: str, *, limit: int = CHUNK) -> list[str]:
    """Whole sentences up to `limit` characters; a longer sentence is cut hard."""
    done: list[str] = []
    current = ""
    for sentence in sentences(text):
        if current and len(current) + len(sentence) > limit:
            done.append(current)
            current = ""
        current += sentence
        while len(current) > limit:
            done.append(current[:limit])
            current = current[limit:]
    if current:
        done.append(current)
    return done


def read_text(path: Path) -> str:
    """UTF-8 text of a data file. Raises DataError."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(
            f"Training data is missing: {path}. Pass the folder that holds reading/, similarity/, folders/ as --data.",
            zh=f"缺少训练数据：{path}。请用 --data 指定含有 reading/、similarity/、folders/ 的文件夹。",
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error}", zh=f"{path} 不是 UTF-8：{error}") from error


def read_json(path: Path) -> Any:
    """A JSON data file. Raises DataError."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not JSON: {error}", zh=f"{path} 不是有效的 JSON：{error}") from error


def _from_zip(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(n for n in archive.namelist() if n.endswith(".json"))
            return json.loads(archive.read(name))
    except (FileNotFoundError, zipfile.BadZipFile, StopIteration, json.JSONDecodeError) as error:
        raise DataError(f"Cannot read {path}: {error!r}", zh=f"无法读取 {path}：{error!r}") from error


def paragraphs(layout: Any) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """Walk a SQuAD layout: (title, passage, questions)."""
    for article in layout["data"]:
        for paragraph in article["paragraphs"]:
            yield str(article.get("title", "")), str(paragraph["context"]), list(paragraph["qas"])


def answering_chunk(context: str, parts: list[str], *, start: int, text: str) -> str | None:
    """The chunk that holds the answer at `start` (or the first one that contains `text`); None if there is none."""
    if start >= 0 and context[start : start + len(text)] == text:
        position = 0
        for part in parts:
            found = context.find(part, position)
            if found >= 0:
                position = found + len(part)
                if found <= start < position:
                    return part
    return next((part for part in parts if text and text in part), None)


def _reading(name: str, layout: Any, *, share: float, rng: random.Random) -> tuple[Source, Source]:
    """Question -> answering chunk; and a sentence of a passage -> another part of it (inverse cloze)."""
    asked: list[Pair] = []
    cloze: list[Pair] = []
    texts: list[str] = []
    for number, (title, context, questions) in enumerate(paragraphs(layout)):
        group = f"{name}:{number}"
        parts = chunks(context)
        texts.append(context)
        for question in questions:
            texts.append(question["question"])
            answers = question.get("answers") or []
            if not answers or question.get("is_impossible"):
                continue
            start, text = int(answers[0].get("answer_start", -1)), str(answers[0]["text"])
            part = answering_chunk(context, parts, start=start, text=text)
            if part:
                asked.append(Pair(question["question"], part, group))
        cloze += _inverse_cloze(parts, group=group, rng=rng)
        if title and parts:
            cloze.append(Pair(title, rng.choice(parts), group))
    return Source(name, tuple(asked), tuple(texts), share), Source(
        f"{name}-cloze", tuple(cloze), (), share * 0.4
    )


def _inverse_cloze(parts: list[str], *, group: str, rng: random.Random) -> list[Pair]:
    """A sentence (or a third of one) against the rest of its chunk; one time in five the chunk keeps it."""
    pairs = []
    for part in parts:
        inside = sentences(part)
        if len(inside) < 2:
            continue
        chosen = rng.randrange(len(inside))
        query = inside[chosen]
        if len(query) > 24:
            begin = rng.randrange(len(query) - 16)
            query = query[begin : begin + rng.randint(10, 24)]
        rest = part if rng.random() < 0.2 else "".join(s for i, s in enumerate(inside) if i != chosen)
        if len(query) >= 6 and len(rest) >= 12:
            pairs.append(Pair(query, rest, group))
    return pairs


def _translations(first: Any, second: Any) -> list[Pair]:
    """Two translations of the same question are paraphrases of each other."""
    known = {q["id"]: q["question"] for _, _, questions in paragraphs(first) for q in questions}
    pairs = []
    for _, _, questions in paragraphs(second):
        for q in questions:
            other = known.get(q["id"])
            if other and other != q["question"]:
                pairs.append(Pair(q["question"], other, f"same:{q['id']}"))
    return pairs


def _similar(root: Path) -> list[Pair]:
    pairs = []
    for line in read_text(root / "similarity/bge_finetune_data.jsonl").splitlines():
        row = json.loads(line)
        pairs += [Pair(row["query"], text, f"bge:{row['query']}") for text in row["pos"]]
    for name in ("STS-B.train.data", "STS-B.valid.data", "STS-B.test.data"):
        for line in read_text(root / "similarity/STS-B" / name).splitlines():
            cells = line.split("\t")
            if len(cells) == 3 and cells[2].strip() in ("4", "5") and cells[0] != cells[1]:
                pairs.append(Pair(cells[0], cells[1], f"bge:{cells[0]}"))
    return pairs


def stard_questions(root: Path, *, part: str) -> list[tuple[str, dict[str, str]]]:
    """(question, {article name: text}) of STARD's "train" or "dev" part."""
    listed = {
        line.split("\t")[0] for line in read_text(root / f"similarity/stard/{part}.query.txt").splitlines()
    }
    rows = read_json(root / "similarity/stard/queries.json")
    return [(row["问题"], row["相关法规"]) for row in rows if str(row["query_id"]) in listed]


def _stard(root: Path) -> Source:
    pairs, texts = [], []
    for question, articles in stard_questions(root, part="train"):
        texts.append(question)
        for name, text in articles.items():
            for part in chunks(text)[:3]:
                pairs.append(Pair(question, part, f"law:{name}"))
    return Source("stard", tuple(pairs), tuple(texts), 1.0)


def _laws(root: Path, *, rng: random.Random) -> Source:
    """Name of the law and chapter -> article; first clause -> the rest of the article."""
    pairs, texts = [], []
    files = sorted((root / "folders/laws").rglob("*.md"))
    for file in files:
        lines = [line.strip() for line in read_text(file).splitlines() if line.strip()]
        title = next((line.lstrip("# ") for line in lines if line.startswith("# ")), file.stem)
        heading = ""
        for line in lines:
            if line.startswith("##"):
                heading = line.lstrip("# ")
                continue
            article = _ARTICLE.match(line)
            if article is None:
                continue
            body = line[article.end() :]
            texts.append(body)
            group = f"law:{title}{article.group(1)}"
            parts = chunks(body)
            pairs += _inverse_cloze(parts, group=group, rng=rng)
            if parts and rng.random() < 0.5:
                pairs.append(Pair(f"{title} {heading}", rng.choice(parts), f"lawtitle:{title}{heading}"))
    return Source("laws", tuple(pairs), tuple(texts), 0.7)


def _classics(root: Path, *, rng: random.Random) -> Source:
    pairs, texts = [], []
    for file in sorted((root / "folders/classics").glob("*.txt")):
        heading = ""
        for number, line in enumerate(read_text(file).splitlines()):
            line = line.strip()
            if re.match(r"^第[一二三四五六七八九十百零〇]+回", line) and len(line) < 60:
                heading = line
            elif len(line) > 30:
                texts.append(line)
                parts = chunks(line)
                pairs += _inverse_cloze(parts, group=f"{file.stem}:{number}", rng=rng)
                if heading and rng.random() < 0.05:
                    pairs.append(Pair(heading, parts[0], f"{file.stem}:{heading}"))
    return Source("classics", tuple(pairs), tuple(texts), 0.4)


def read_sources(root: Path, *, seed: int) -> list[Source]:
    """All that may be used to train shipped weights. Raises DataError naming the file that is missing or broken."""
    rng = random.Random(seed)
    reading = root / "reading"
    early, late = read_json(reading / "dev-v1.1-zh_early.json"), read_json(reading / "dev-v2.0-zh.json")
    sources: list[Source] = []
    sources += _reading("cmrc", _from_zip(reading / "train-pseudo-cmrc2018.zip"), share=2.0, rng=rng)
    sources += _reading("drcd", read_json(reading / "DRCD_dev.json"), share=1.0, rng=rng)
    sources += _reading("squad-early", early, share=0.7, rng=rng)
    sources += _reading("squad-v2", late, share=0.6, rng=rng)
    sources.append(Source("paraphrase", tuple(_translations(early, late) + _similar(root)), (), 1.0))
    sources += [_stard(root), _laws(root, rng=rng), _classics(root, rng=rng)]
    return [source for source in sources if source.pairs]
