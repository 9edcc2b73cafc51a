"""Registry, readers, writers, conversion and checks of training data."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT, SHARED
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data import markup
from finetune.data.check import check
from finetune.data.convert import convert, differences
from finetune.data.formats import FORMATS
from finetune.data.load import load_set, load_sets, sniff
from finetune.data.registry import DataSet, find, hash_files
from finetune.data.rows import read_rows
from finetune.data.types import (
    BadLine,
    Conversation,
    Feedback,
    PlainText,
    Preference,
    Source,
    Turn,
    Unusable,
    kind_of,
)
from kb.errors import DataError

OURS = ROOT / "data"


def pair(question: str, answer: str, line: int = 1) -> Conversation:
    return Conversation(
        (Turn("user", question), Turn("assistant", answer)), source=Source(Path("x.csv"), line)
    )


def write(path: Path, rows: object) -> Path:
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return path


# ------------------------------------------------------------------ our own sets


def test_every_set_of_ours_is_read_whole_and_recognised() -> None:
    entries = json.loads((OURS / "dataset_info.json").read_text(encoding="utf-8"))
    assert {e["format"] for e in entries.values()} == set(FORMATS)
    for name, entry in entries.items():
        loaded = load_sets(name, folder=OURS, strict=True)
        assert loaded.examples and not loaded.bad, name
        assert sniff(OURS / entry["file_name"]) == entry["format"], name


def test_zhouyi_has_every_hexagram() -> None:
    loaded = load_sets("zhouyi", folder=OURS)
    numbers = {e.answer for e in loaded.examples if isinstance(e, Conversation) and "是第几卦" in e.question}
    assert len(loaded.examples) == 64 * 6 and len(numbers) == 64


def test_mixing_bounds_each_set_and_is_drawn_by_the_seed() -> None:
    one = load_sets("zhouyi,service_qa", folder=OURS, limit=7, seed=1)
    same = load_sets("zhouyi,service_qa", folder=OURS, limit=7, seed=1)
    other = load_sets("zhouyi,service_qa", folder=OURS, limit=7, seed=2)
    assert len(one.examples) == 14 and one == same and one != other


# ------------------------------------------------------------------ formats


def test_alpaca_with_history_trains_on_every_answer(tmp_path: Path) -> None:
    row = {"instruction": "后来呢？", "input": "请简短", "output": "走了。", "system": "你是说书人"}
    row |= {"history": [["开头", "有个人。"], ["然后", "他来了。"]]}  # type: ignore[dict-item]
    path = write(tmp_path / "a.json", [row])
    (example,) = load_set(DataSet("a", (path,), None)).examples
    assert isinstance(example, Conversation)
    assert [t.content for t in example.turns] == [
        "开头",
        "有个人。",
        "然后",
        "他来了。",
        "后来呢？\n请简短",
        "走了。",
    ]
    assert all(t.train for t in example.turns if t.role == "assistant") and example.system == "你是说书人"


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([("human", "a"), ("human", "b")], "out of turn"),
        ([("gpt", "a")], "out of turn"),
        ([("human", "a")], "must end"),
        ([("human", "a"), ("gpt", " ")], "is empty"),
        ([("human", "a"), ("robot", "b")], "known are"),
        ([("human", "a"), ("function_call", "not json")], "tool call"),
        ([], "no messages"),
    ],
)
def test_sharegpt_must_alternate(messages: list[tuple[str, str]], reason: str, tmp_path: Path) -> None:
    row = {"conversations": [{"from": r, "value": v} for r, v in messages]}
    with pytest.raises(Unusable, match=reason):
        FORMATS["sharegpt"].read(row, Source(tmp_path / "x", 1))


def test_tool_calls_survive() -> None:
    row = {
        "conversations": [
            {"from": "human", "value": "天气？"},
            {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "杭州"}}'},
            {"from": "observation", "value": "晴"},
            {"from": "gpt", "value": "晴天。"},
        ],
        "tools": '[{"name": "weather"}]',
    }
    example = FORMATS["sharegpt"].read(row, Source(Path("x"), 1))
    assert isinstance(example, Conversation)
    assert example.turns[1].metadata == "weather" and json.loads(example.turns[1].content) == {"city": "杭州"}
    back = FORMATS["sharegpt"].read(FORMATS["sharegpt"].write(example), Source(Path("x"), 1))
    assert differences(example, back) == []


@pytest.mark.parametrize(
    ("line", "question", "answer"),
    [
        ("头疼怎么办? 已经三天了,多休息。", "头疼怎么办?\n已经三天了", "多休息。"),
        ("头疼怎么办？ 三天了，很疼。,多休息，多喝水。", "头疼怎么办？\n三天了，很疼。", "多休息，多喝水。"),
        ("头疼怎么办？,多休息。", "头疼怎么办？", "多休息。"),
        ("头疼 已经三天了,多休息", "头疼\n已经三天了", "多休息"),
        ("头疼怎么办？，多休息", "头疼怎么办？", "多休息"),
        ("血压 1,500 单位？ 正常吗,不正常", "血压 1,500 单位？\n正常吗", "不正常"),
    ],
)
def test_medical_line(line: str, question: str, answer: str) -> None:
    assert markup.read_medical_line(line) == (question, answer)


@pytest.mark.parametrize("line", ["没有逗号的一行", ",只有回答", "只有问题？,"])
def test_medical_line_that_is_none(line: str) -> None:
    with pytest.raises(Unusable):
        markup.read_medical_line(line)


text = st.text("你我他天地人山水，。？ab1 ", min_size=1, max_size=20).map(str.strip).filter(bool)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(text, text), min_size=1, max_size=4), st.sampled_from(sorted(FORMATS)), text)
def test_conversion_says_exactly_what_it_loses(
    rounds: list[tuple[str, str]], target: str, system: str
) -> None:
    turns = tuple(t for q, a in rounds for t in (Turn("user", q), Turn("assistant", a)))
    example = Conversation(turns, system)
    form = FORMATS[target]
    if form.kind != "conversation":
        return
    try:
        back = form.read(form.write(example), Source(Path("x"), 1))
    except Unusable:
        return
    lost = differences(example, back)
    assert (lost == []) == (replace(back, source=None) == example)
    if target in ("sharegpt", "messages", "alpaca", "chatglm3"):
        assert lost == []


def test_convert_reports_losses_and_skips_other_kinds(tmp_path: Path) -> None:
    loaded = load_sets("service_alpaca,service_preference", folder=OURS)
    out = tmp_path / "out.csv"
    report = convert(loaded.examples, to="question-answer", path=out)
    assert report.written == 10 and report.skipped == 10 and not report.lossless
    assert report.lost["system prompt"] == 10 and report.lost["earlier turns"] == 10
    assert len(load_set(DataSet("o", (out,), None)).examples) == 10
    with pytest.raises(DataError, match="json or"):
        convert(loaded.examples, to="sharegpt", path=tmp_path / "out.csv")


def test_kinds() -> None:
    names = {"service_preference": Preference, "service_kto": Feedback, "zhouyi_notes": PlainText}
    for name, kind in names.items():
        assert all(isinstance(e, kind) for e in load_sets(name, folder=OURS).examples)
    assert kind_of(pair("a", "b")) == "conversation"


# ------------------------------------------------------------------ registry


def test_registry_checks_hashes_columns_and_places(tmp_path: Path) -> None:
    file = write(tmp_path / "a.json", [{"q": "问", "a": "答"}])
    sha1 = hashlib.sha1(file.read_bytes()).hexdigest()
    entry = {
        "file_name": "a.json",
        "file_sha1": sha1,
        "columns": {"prompt": "q", "response": "a", "query": None},
    }
    write(tmp_path / "dataset_info.json", {"a": entry})
    (example,) = load_sets("a", folder=tmp_path).examples
    assert isinstance(example, Conversation) and example.answer == "答"
    (found,) = find("a", folder=tmp_path)
    assert hash_files(found)["a.json"] == hashlib.sha256(file.read_bytes()).hexdigest()
    for change, message in (
        ({"file_sha1": "0" * 40}, "SHA-1"),
        ({"file_name": "../secret.json"}, "leads out"),
        ({"colums": {}}, "Did you mean 'columns'"),
        ({"columns": {"promt": "q"}}, "promt"),
        ({"formatting": "vicuna"}, "alpaca"),
    ):
        write(tmp_path / "dataset_info.json", {"a": entry | change})
        with pytest.raises(DataError, match=message):
            load_sets("a", folder=tmp_path)
    with pytest.raises(DataError, match="Close: service"):
        write(tmp_path / "dataset_info.json", {"service": entry})
        load_sets("servce", folder=tmp_path)


def test_scripts_of_others_are_not_run(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "load.py").write_text("raise SystemExit('run!')")
    write(tmp_path / "dataset_info.json", {"s": {"script_url": "set"}, "hub": {"hf_hub_url": "who/what"}})
    with pytest.raises(DataError, match="not run"):
        load_sets("s", folder=tmp_path)
    write(tmp_path / "set" / "train.json", [{"instruction": "a", "output": "b"}])
    assert len(load_sets("s", folder=tmp_path).examples) == 1
    with pytest.raises(DataError, match="not on this machine"):
        load_sets("hub", folder=tmp_path)


# ------------------------------------------------------------------ lines and encodings


def test_every_row_knows_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[\n {"instruction": "a",\n  "output": "b"},\n\n {"instruction": "c", "output": ""}\n]')
    loaded = load_set(DataSet("a", (path,), None))
    assert loaded.examples[0].source == Source(path, 2)
    assert [b.source.line for b in loaded.bad] == [5]
    lines = tmp_path / "b.jsonl"
    lines.write_text('{"instruction": "a", "output": "b"}\n{broken\n\n{"instruction": "c", "output": "d"}\n')
    loaded = load_set(DataSet("b", (lines,), None))
    assert [e.source.line for e in loaded.examples if e.source] == [1, 4] and loaded.bad[0].source.line == 2
    with pytest.raises(DataError, match=r"b\.jsonl:2"):
        load_set(DataSet("b", (lines,), None), strict=True)


def test_csv_in_gb18030_with_line_breaks(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes('question,answer\n"头\n疼","休息"\n感冒,多喝水\n坏行\n'.encode("gb18030"))
    loaded = load_set(DataSet("a", (path,), None))
    assert [e.source.line for e in loaded.examples if e.source] == [2, 4]
    assert loaded.bad[0].source.line == 5 and "1 cells" in loaded.bad[0].reason


def test_cut_off_array(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"instruction": "a", "output": "b"},')
    assert isinstance(list(read_rows(path))[-1], BadLine)


# ------------------------------------------------------------------ checks


def test_check_finds_each_kind_with_its_line() -> None:
    examples = [
        pair("年假几天？", "五天。", 1),
        pair("年假几天？", "五天。", 2),
        pair("年假 几天", "十天。", 3),
        pair("乱码", "锟斤拷锟斤拷", 4),
        pair("说明", "首先打开机器的盖子，然后把水箱取出来清洗，接着，", 5),
    ]
    report = check(
        examples,
        evaluation=[pair("乱码", "?", 9)],
        max_tokens=10,
        count_tokens=lambda e: len(e.answer),  # type: ignore[union-attr]
    )
    found = {(f.kind, f.source.line) for f in report.findings}
    assert {
        ("duplicate", 2),
        ("contradiction", 3),
        ("encoding", 4),
        ("no-end", 5),
        ("too-long", 5),
        ("leak", 9),
    } <= found
    assert check([pair("一", "二")]).clean


def test_check_finds_moved_answers_and_leaves_sound_sets_alone() -> None:
    sound = [
        replace(e, source=Source(Path("z.csv"), i))
        for i, e in enumerate(load_sets("service_qa,customer_lines", folder=OURS).examples)
    ]
    assert "shuffled" not in check(sound).counts
    rows = list(sound)
    moved = [0, 1, 4, 6, 8]
    answers = [rows[i].turns[1] for i in moved]
    for place, answer in zip(moved, answers[1:] + answers[:1], strict=True):
        rows[place] = replace(rows[place], turns=(rows[place].turns[0], answer))
    named = {f.source.line for f in check(rows).findings if f.kind == "shuffled"}
    assert named <= set(moved) and len(named) >= 2


@pytest.mark.skipif(not SHARED.is_dir(), reason="public data is not on this machine")
def test_public_sets_are_read() -> None:
    folder = SHARED / "data" / "finetune" / "llamafactory_data"
    for name in (
        "identity",
        "alpaca_zh_demo",
        "dpo_zh_demo",
        "kto_en_demo",
        "glaive_toolcall_zh_demo",
        "c4_demo",
    ):
        loaded = load_sets(name, folder=folder)
        assert len(loaded.examples) > 50 and len(loaded.bad) < 0.02 * len(loaded.examples), name
    with pytest.raises(DataError, match="pictures"):
        load_sets("mllm_demo", folder=folder)
