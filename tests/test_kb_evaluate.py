"""Evaluating retrieval: files of questions, ranks, intervals, the report's three forms."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from made_knowledge import TOPICS, static_embedder, topics

from kb.calibrate import calibrate
from kb.errors import DataError
from kb.evaluate import RetrievalReport, evaluate_retrieval, figure, scores
from kb.questions import Place, Question, read_questions
from kb.search import search

ROOT = Path(__file__).resolve().parent.parent


def test_report_of_questions_with_known_places(tmp_path: Path) -> None:
    embedder = static_embedder(tmp_path / "model")
    kb = topics(tmp_path, "docs", embedder=embedder)
    calibrate(kb, embedder=embedder)
    questions = [Question(v.split("，")[0], (Place(f"{k}.txt", 1),)) for k, v in TOPICS.items()]
    questions += [Question("鲸鱼靠什么呼吸？", ()), Question("滤芯何时换", (Place("", 0, "每 六个月 更换"),))]
    report = evaluate_retrieval(kb, questions, embedder=embedder)
    assert [m.mode for m in report.modes] == ["hybrid", "dense", "lexical"]
    assert (report.answerable, report.unanswerable, report.unknown) == (len(TOPICS) + 1, 1, ())
    hybrid = report.modes[0]
    assert hybrid.recall_1.mean == hybrid.mrr_10.mean == hybrid.ndcg_10.mean == 1.0
    assert hybrid.answered_wrongly.mean == 0.0 and hybrid.refused_wrongly.mean <= 0.2
    assert json.loads(report.to_json())["modes"][0]["recall_1"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    table = report.table()
    assert "recall@5" in table and table.count("\n") == 4
    report.save_picture(tmp_path / "report.png")
    assert (tmp_path / "report.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    wrong = [Question(q.text, (Place("missing.txt"),)) for q in questions[:3]]
    nothing = evaluate_retrieval(kb, wrong, embedder=embedder)
    assert nothing.modes[0].recall_10.mean == 0.0 and nothing.unknown == ("missing.txt",)
    assert math.isnan(nothing.modes[0].answered_wrongly.mean) and "-" in nothing.table()
    assert isinstance(nothing, RetrievalReport)


def test_scores_of_ranks_written_out(tmp_path: Path) -> None:
    embedder = static_embedder(tmp_path / "model")
    kb = topics(tmp_path, "docs", embedder=embedder)
    hits = search([kb], "员工培训", embedder=embedder).hits
    second, third = hits[1].document.name, hits[2].document.name
    found = scores(hits, [Place(second)])
    assert found == pytest.approx([0, 1, 1, 1 / 2, 1 / math.log2(3)])
    both = scores(hits, [Place(second), Place(third)])
    ideal = 1 + 1 / math.log2(3)
    assert both == pytest.approx([0, 1, 1, 1 / 2, (1 / math.log2(3) + 1 / 2) / ideal])
    assert scores(hits, [Place("nowhere.txt")]) == [0, 0, 0, 0, 0]


def test_intervals_hold_the_mean_and_shrink_with_more_questions() -> None:
    few = figure(np.array([0.0, 1.0] * 10))
    many = figure(np.array([0.0, 1.0] * 1000))
    assert few.mean == many.mean == 0.5
    assert few.low < many.low < 0.5 < many.high < few.high
    assert figure(np.array([0.0, 1.0] * 10)) == few


def test_reading_jsonl_and_csv(tmp_path: Path) -> None:
    lines = [
        {"question": "年假几天", "file": "a.pdf", "page": 3},
        {"question": "年假几天", "file": "b.pdf"},
        {"question": "天气", "unanswerable": True},
    ]
    path = tmp_path / "q.jsonl"
    path.write_text(
        "\n".join(json.dumps(row, ensure_ascii=False) for row in lines) + "\n\n", encoding="utf-8"
    )
    expected = [Question("年假几天", (Place("a.pdf", 3), Place("b.pdf"))), Question("天气", ())]
    assert read_questions(path) == expected
    table = tmp_path / "q.csv"
    table.write_text(
        "\ufeffquestion,file,page,unanswerable\n年假几天,a.pdf,3,\n年假几天,b.pdf,,\n天气,,,true\n",
        encoding="utf-8",
    )
    assert read_questions(table) == expected
    sample = read_questions(ROOT / "data" / "eval" / "docs.jsonl")
    assert len(sample) > 30 and any(not q.answerable for q in sample)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"question": "a", "file": "x"}\n{"question": ""}', "line 2: has no question"),
        ("not json", "line 1: is not JSON"),
        ('["a"]', "line 1: is not an object"),
        ('{"question": "a"}', "line 1: needs 'file'"),
        ('{"question": "a", "file": "x", "page": "three"}', "page 'three' is not a number"),
        ('{"question": "a", "file": "x", "page": -1}', "is negative"),
        ('{"question": "a", "file": 7}', "must be text"),
        ('{"question": "a", "unanswerable": "perhaps"}', "not true or false"),
        (
            '{"question": "a", "file": "x"}\n{"question": "a", "unanswerable": true}',
            "line 2: is unanswerable",
        ),
        ("", "has no question"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"bad\.jsonl") as caught:
        read_questions(path)
    assert said in caught.value.message and caught.value.zh != caught.value.message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("a", encoding="utf-8")
    (tmp_path / "gbk.jsonl").write_bytes("问题".encode("gbk"))
    (tmp_path / "q.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    for name, said in (
        ("q.txt", "jsonl or"),
        ("gbk.jsonl", "UTF-8"),
        ("q.csv", "column"),
        ("no.csv", "cannot"),
    ):
        with pytest.raises(DataError, match=said):
            read_questions(tmp_path / name)
