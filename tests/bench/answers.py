"""Extractive answers and the check of citations, measured on public reading sets with the product's own search.

    python -m tests.bench.answers DATA [--questions 400] [--out FILE]

DATA: a folder with reading/cmrc2018_trial.json and reading/dureader_robust_dev.json (none of it is ours to ship).
Measured: does the quoted text hold the reference answer, how long is it, does the first citation hold it; and how often
a sentence of a source with one digit changed is taken for supported (must not be), or an unchanged one is not (must be).
How near further pieces must be (rag/extractive.py) was chosen while looking at samples of DRCD dev, DuReader and CMRC trial:
these sets are not unseen. The thresholds of rag/cite.py were set before and not changed afterwards.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kb.embed import SHIPPED, EmbedderConfig, open_embedder
from kb.knowledge import KnowledgeBase
from kb.search import SearchOptions, search
from kb.sync import sync
from kb.types import Embedder, SearchResult
from rag.answer import answer_from
from rag.cite import cite
from rag.evaluate import said_of
from rag.metrics import contains
from rag.sentence import sentence_spans

SETS = {"cmrc": "reading/cmrc2018_trial.json", "dureader": "reading/dureader_robust_dev.json"}
_DIGIT = re.compile(
    r"[0-9一二三四五六七八九](?=[0-9十百千万]*\s?(?:年|月|日|天|元|个|人|次|%|公里|米|岁|名|小时|分))"
)


def read_set(path: Path) -> tuple[list[str], list[tuple[str, list[str], int]]]:
    """(texts, [(question, answers, number of its text)]) of a file in SQuAD's layout; equal texts are one."""
    texts: dict[str, int] = {}
    questions = []
    for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            at = texts.setdefault(paragraph["context"], len(texts))
            for qa in paragraph["qas"]:
                answers = [answer["text"] for answer in qa["answers"] if answer["text"].strip()]
                if answers:
                    questions.append((qa["question"], answers, at))
    return list(texts), questions


def knowledge_base(home: Path, name: str, texts: Sequence[str], embedder: Embedder) -> KnowledgeBase:
    """Each text as a file, indexed as the product does it; kept in `home` if it is there already."""
    if (home / "kb" / name).is_dir():
        return KnowledgeBase.open(home, name)
    folder = home / "files" / name
    folder.mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(texts):
        (folder / f"{number}.txt").write_text(text, encoding="utf-8")
    kb = KnowledgeBase.create(home, name, embedder=embedder)
    sync(kb, folder, embedder=embedder)
    return kb


def measure_answers(
    found: Sequence[SearchResult], questions: Sequence[tuple[str, list[str], int]], embedder: Embedder
) -> dict[str, float]:
    """Shares of all questions, and mean lengths."""
    held = first = right_text = 0
    chars: list[int] = []
    pieces = 0
    began = time.perf_counter()
    for result, (question, answers, at) in zip(found, questions, strict=True):
        answer = answer_from(question, replace(result, threshold=0.0), embedder=embedder)
        text = said_of(answer)
        held += contains(text, answers) > 0
        right_text += any(hit.document.name == f"{at}.txt" for hit in result)
        first += bool(answer.citations) and contains(answer.citations[0].quote, answers) > 0
        chars.append(len(text))
        pieces += len(answer.citations)
    n = len(questions)
    return {
        "questions": n,
        "found": right_text / n,
        "contained": held / n,
        "first": first / n,
        "chars": sum(chars) / n,
        "pieces": pieces / n,
        "ms": 1000 * (time.perf_counter() - began) / n,
    }


def changed(sentence: str, rng: random.Random) -> str:
    """The sentence with one digit changed; empty if it has none that counts."""
    places = [found.start() for found in _DIGIT.finditer(sentence)]
    if not places:
        return ""
    at = rng.choice(places)
    digits = "0123456789" if sentence[at].isascii() else "一二三四五六七八九"
    return sentence[:at] + rng.choice([c for c in digits if c != sentence[at]]) + sentence[at + 1 :]


def reworded(sentence: str) -> str:
    """The same said a little differently: clauses in another order, other function words, digits for Chinese numbers."""
    body = sentence.rstrip("。！？")
    clauses = re.split(r"[，；]", body)
    if len(clauses) > 1:
        clauses = [*clauses[1:], clauses[0]]
    text = "，".join(clauses)
    for a, b in (
        ("因为", "由于"),
        ("但是", "不过"),
        ("以及", "和"),
        ("并且", "而且"),
        ("位于", "在"),
        ("约", "大约"),
    ):
        text = text.replace(a, b)
    return text + "。"


def measure_citing(found: Sequence[SearchResult], *, most: int, seed: int = 0) -> dict[str, float]:
    """How sentences of the passages found are judged: as they are, reworded, and with a digit changed."""
    rng = random.Random(seed)
    counts = {"quoted": 0, "reworded": 0, "caught": 0}
    total = {"sentences": 0, "changed": 0}
    for result, sentence in _sentences(found, rng):
        total["sentences"] += 1
        counts["quoted"] += cite(sentence, result.hits).sentences[0].support == "quoted"
        made = cite(reworded(sentence), result.hits).sentences
        counts["reworded"] += all(s.support in ("quoted", "supported") for s in made)
        if wrong := changed(sentence, rng):
            total["changed"] += 1
            made = cite(wrong, result.hits).sentences
            counts["caught"] += any(s.support in ("partial", "unsupported") for s in made)
        if total["sentences"] >= most:
            break
    n = max(1, total["sentences"])
    return {
        "sentences": n,
        "quoted": counts["quoted"] / n,
        "reworded": counts["reworded"] / n,
        "changed": total["changed"],
        "caught": counts["caught"] / max(1, total["changed"]),
    }


def _sentences(found: Sequence[SearchResult], rng: random.Random) -> Iterator[tuple[SearchResult, str]]:
    """One sentence of each best passage, with a number if there is one."""
    for result in found:
        if not result.hits:
            continue
        text = result.hits[0].passage.text
        all_of = [text[a:b] for a, b in sentence_spans(text) if 12 <= b - a <= 120]
        with_number = [sentence for sentence in all_of if _DIGIT.search(sentence)]
        if all_of:
            yield result, rng.choice(with_number or all_of)


def run(data: Path, *, home: Path, most: int) -> dict[str, Any]:
    """All sets."""
    embedder = open_embedder(EmbedderConfig(model=str(SHIPPED)))
    results: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "embedder": embedder.name,
    }
    for name, file in SETS.items():
        texts, questions = read_set(data / file)
        kb = knowledge_base(home, name, texts, embedder)
        step = max(1, len(questions) // most)
        chosen = questions[::step][:most]
        found = [search([kb], q, embedder=embedder, options=SearchOptions()) for q, _, _ in chosen]
        results[name] = measure_answers(found, chosen, embedder) | {
            "citing": measure_citing(found, most=most)
        }
        print(name, json.dumps(results[name], ensure_ascii=False), flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--questions", type=int, default=400)
    parser.add_argument("--home", type=Path, default=None, help="keep the knowledge bases here")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        results = run(args.data, home=args.home or Path(scratch), most=args.questions)
    if args.out:
        args.out.write_text(json.dumps(results, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
