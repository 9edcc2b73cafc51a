"""Making data through a real OpenAI-compatible server on loopback, from a real knowledge base; and the commands around it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune.data.load import load_sets
from finetune.data.types import Conversation
from finetune.synthesis import SynthesisOptions, from_notes, read_notes
from finetune.synthesis.run import first_json
from kb.errors import DataError
from rag.prompt import REFUSAL
from tests.loopback_model import Scripted, served
from ui.cli import main

DOCUMENTS = {
    "年假.md": "# 年假\n\n员工入职满一年后享受带薪年休假六天，满五年享受十一天。年休假当年使用，可顺延到次年三月三十一日，逾期作废。",
    "滤芯.md": "# 滤芯\n\n复合滤芯 CF-31 每六个月更换一次，单价一百九十九元。更换后请连续放掉两箱水，把炭粉冲洗干净再饮用。",
    "报销.md": "# 报销\n\n差旅费应在返回后十个工作日内报销，住宿费一线城市每晚不超过五百元。发票抬头必须是公司全称，缺一不可。",
}


def teacher(prompt: str) -> str:
    """Two good pairs about what it reads, one with invented evidence, one with an invented number, and a question to refuse."""
    source = prompt.split("【资料】")[1].split("【资料结束】")[0].strip()
    lines = [line for line in source.splitlines() if "。" in line]
    first = lines[-1].split("。")[0] + "。"
    topic = re.sub(r"\W", "", first)[:6]
    pairs = [
        {
            "question": f"{topic}是怎样规定的？",
            "variants": [f"请说明{topic}的规定", f"{topic}要注意什么？"],
            "answer": first,
            "evidence": first,
        },
        {
            "question": f"{topic}是谁定的？",
            "variants": [],
            "answer": "由总部定。",
            "evidence": "本规定由总部制定并解释。",
        },
        {"question": f"{topic}有多少？", "variants": [], "answer": "一共 8888 元。", "evidence": first},
        {"question": f"{topic}是怎样规定的", "variants": "不是列表", "answer": first, "evidence": first},
        "不是对象",
    ]
    found = {"pairs": pairs, "unanswerable": [f"{topic}在国外怎么办？", 3]}
    return "好的，如下：\n```json\n" + json.dumps(found, ensure_ascii=False) + "\n```"


@pytest.fixture(scope="module")
def made_kb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one knowledge base."""
    home = tmp_path_factory.mktemp("home")
    folder = home / "docs"
    folder.mkdir()
    for name, text in DOCUMENTS.items():
        (folder / name).write_text(text, encoding="utf-8")
    assert main(["index", str(folder), "--kb", "docs", "--home", str(home)]) == 0
    return home


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    model = Scripted(teacher)
    with served({"teacher": model}, key="geheim") as url:
        for name, value in {
            "KIND": "openai", "BASE_URL": url, "MODEL": "teacher", "KEY_ENV": "TEST_TEACHER_KEY",
        }.items():  # fmt: skip
            monkeypatch.setenv(f"ZHIWEN_GENERATOR_{name}", value)
        monkeypatch.setenv("TEST_TEACHER_KEY", "geheim")
        yield model


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def synthesize(home: Path, out: Path, *flags: str) -> int:
    return main(
        ["data", "synthesize", "--from-kb", "docs", "--out", str(out), "--home", str(home), "--json", *flags]
    )


def test_only_what_holds_is_kept(
    made_kb: Path, server: Scripted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "made.jsonl"
    capsys.readouterr()
    assert synthesize(made_kb, out, "--hold-out", "0.4") == 0
    report = json.loads(capsys.readouterr().out)
    sources = len(server.asked)
    assert sources >= 3 and report["calls"] == sources and report["stopped"] == ""
    assert report["dropped"]["evidence is not in the source"] == sources
    assert report["dropped"]["answer has numbers or names that the source does not have"] == sources
    assert report["dropped"]["duplicate question"] == sources
    examples = [
        e for e in load_sets(str(out), folder=tmp_path, strict=True).examples if isinstance(e, Conversation)
    ]
    assert len(examples) == report["kept"] == len(rows(out))
    refusals = [e for e in examples if e.answer == REFUSAL]
    assert len(refusals) == sources
    for example in examples:
        asked = example.turns[0].content
        assert asked.startswith("【指令】") and "【已知信息】" in asked
        if example.answer != REFUSAL:
            number = int(example.answer[example.answer.rindex("[") + 1 : -1])
            passage = asked.split(f"[{number}] ")[1].split("\n\n[")[0]
            assert example.answer[:-3].strip("。") in passage, "the citation points to its source"
    held = rows(out.with_suffix(".questions.jsonl"))
    assert len(held) == report["held_out"] > 0
    assert not {r["question"] for r in held} & {r["made"]["question"] for r in rows(out)}  # type: ignore[index]
    assert "geheim" not in "".join(p.read_text(encoding="utf-8") for p in tmp_path.iterdir())


def test_it_goes_on_where_it_stopped_within_the_budget(
    made_kb: Path, server: Scripted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "made.jsonl"
    budget = 1600
    assert synthesize(made_kb, out, "--budget-tokens", str(budget), "--workers", "4") == 1
    capsys.readouterr()
    before = rows(out) if out.is_file() else []
    done = rows(out.with_suffix(".done.jsonl"))
    assert 1 <= len(done) < 3 and sum(int(str(r["tokens"])) for r in done) <= budget
    with out.open("a", encoding="utf-8") as file:
        file.write('{"messages": [{"role"')  # as a kill -9 leaves it
    asked = len(server.asked)
    assert synthesize(made_kb, out) == 0
    report = json.loads(capsys.readouterr().out)
    assert rows(out)[: len(before)] == before and report["kept"] == len(rows(out))
    assert len(server.asked) - asked == report["calls"] == 3 - len(done), "what is done is not paid for twice"
    assert synthesize(made_kb, out) == 0 and len(server.asked) == asked + report["calls"]


def test_notes_become_summaries_with_many_questions(tmp_path: Path) -> None:
    notes = tmp_path / "notes.md"
    notes.write_text("# 乾\n天行健，君子以自强不息。\n\n# 坤\n地势坤，君子以厚德载物。\n", encoding="utf-8")

    def says(prompt: str) -> str:
        name = "乾" if "天行健" in prompt else "坤"
        asked = [f"{name}卦讲什么？", f"说说{name}卦", f"{name}卦讲什么", "", 5, f"{name}卦的意思？"]
        return json.dumps({"summary": f"{name}卦的总结。", "questions": asked}, ensure_ascii=False)

    found = read_notes(notes)
    assert [name for name, _ in found] == ["1. 乾", "2. 坤"]
    out = tmp_path / "made.jsonl"
    report = from_notes(found, Scripted(says), out=out, options=SynthesisOptions(questions=3))
    assert report.kept == 6 and report.dropped == {"duplicate question": 2}
    examples = load_sets(str(out), folder=tmp_path, strict=True).examples
    assert {e.answer for e in examples if isinstance(e, Conversation)} == {"乾卦的总结。", "坤卦的总结。"}


def test_answers_that_are_no_json_cost_and_are_said(tmp_path: Path) -> None:
    out = tmp_path / "made.jsonl"
    report = from_notes([("一", "一条笔记")], Scripted(lambda prompt: "抱歉，我不会。"), out=out)
    assert report.kept == 0 and report.dropped == {"answer is not JSON": 1} and report.tokens > 0
    with pytest.raises(DataError, match=r"\.jsonl"):
        from_notes([], Scripted(lambda prompt: ""), out=tmp_path / "made.csv")


def test_first_json_survives_what_models_write() -> None:
    assert first_json('说明 {坏的} ```json\n{"a": {"b": 1}}\n```') == {"a": {"b": 1}}
    assert first_json("没有") is None and first_json("[1, 2]") is None


# ------------------------------------------------------------------ the commands of comparing


def test_compare_judge_and_damage_from_the_command_line(
    monkeypatch: pytest.MonkeyPatch, made_kb: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def base(prompt: str) -> str:
        return "这个我不太清楚呢，请您再看看别的资料吧。" if "加" not in prompt else str(eval_sum(prompt))

    def tuned(prompt: str) -> str:
        return "满一年享受带薪年休假六天。"

    def judge(prompt: str) -> str:
        first = prompt.split("【回答A】")[1].split("【回答B】")[0]
        return "A" if "六天" in first else "B"

    questions = tmp_path / "q.jsonl"
    questions.write_text(
        "".join(
            json.dumps(
                {
                    "question": f"入职满一年年假几天？{i}",
                    "answer": "满一年享受带薪年休假六天。",
                    "type": "问答",
                },
                ensure_ascii=False,
            )
            + "\n"
            for i in range(6)
        ),
        encoding="utf-8",
    )
    general = tmp_path / "general.jsonl"
    general.write_text(
        "".join(
            json.dumps(
                {"area": "算术", "question": f"{i} 加 1 等于几？", "pattern": rf"\b{i + 1}\b"},
                ensure_ascii=False,
            )
            + "\n"
            for i in range(8)
        ),
        encoding="utf-8",
    )
    with served({"base-model": Scripted(base), "tuned": Scripted(tuned), "judge": Scripted(judge)}) as url:
        for name, value in {"KIND": "openai", "BASE_URL": url, "MODEL": "base-model"}.items():
            monkeypatch.setenv(f"ZHIWEN_GENERATOR_{name}", value)
        home, out = str(made_kb), tmp_path / "report"
        capsys.readouterr()
        assert (
            main(
                [
                    "compare",
                    "--adapters",
                    "tuned",
                    "--questions",
                    str(questions),
                    "--kb",
                    "docs",
                    "--out",
                    str(out),
                    "--home",
                    home,
                    "--json",
                ]
            )
            == 0
        )
        about = json.loads(capsys.readouterr().out)
        assert about["names"] == ["base", "tuned", "base +kb", "tuned +kb"]
        assert (
            about["overall"]["exact"]["tuned"]["gain"] == 1.0 and about["overall"]["exact"]["tuned"]["sure"]
        )
        assert (
            main(
                [
                    "judge",
                    str(out),
                    "--candidate",
                    "tuned",
                    "--judge",
                    f"judge@{url}",
                    "--home",
                    home,
                    "--json",
                ]
            )
            == 0
        )
        assert json.loads(capsys.readouterr().out)["wins"]["judge"]["mean"] == 1.0
        assert (
            main(
                [
                    "judge",
                    str(out),
                    "--candidate",
                    "tuned",
                    "--human",
                    str(tmp_path / "s.csv"),
                    "--home",
                    home,
                ]
            )
            == 0
        )
        assert (tmp_path / "s.key.json").is_file()
        flags = ["--general", str(general), "--home", home]
        capsys.readouterr()
        assert main(["damage", "tuned", *flags, "--json"]) == 1
        assert {i["name"]: i["status"] for i in json.loads(capsys.readouterr().out)["items"]}[
            "forgetting"
        ] == "worse"
        page = tmp_path / "damage.html"
        assert main(["damage", "tuned", *flags, "--max-forgetting", "1", "--out", str(page)]) == 0
        assert "通过" in capsys.readouterr().out and "算术" in page.read_text(encoding="utf-8")


def eval_sum(prompt: str) -> int:
    """The sum that a general question asks for."""
    digits = re.findall(r"\d+", prompt)
    return sum(map(int, digits[:2]))


def test_corrupt_and_show_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bad.jsonl"
    assert main(["data", "corrupt", "service_qa", "--damage", "shuffle", "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["written"] == 10
    assert main(["data", "show", str(out), "--model", "tiny", "--count", "1", "--json"]) == 0
    (shown,) = json.loads(capsys.readouterr().out)
    assert len(shown["ids"]) == len(shown["trained"]) and not shown["trained"][0] and shown["trained"][-1]
    assert main(["data", "show", str(out), "--model", "tiny", "--count", "1"]) == 0
    text = capsys.readouterr().out
    assert "⟦" in text and "<|user|>" in text.split("⟦")[0]
