"""The story of answering: refuse before generating, pack, generate, cite; events, cancelling, traces."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from rag_samples import HANDBOOK, PAY, Says, found, handbook_hits

from kb.embed import SHIPPED
from rag.answer import AnswerOptions, answer, answer_from, stream_answer, stream_from
from rag.prompt import REFUSAL, REFUSAL_EN
from rag.types import AnswerReady, GenerateOptions, Message, Piece, Status


def test_refuses_without_calling_the_model() -> None:
    model = Says("不该说话")
    made = answer_from(
        "食堂在几楼？", found("食堂在几楼？", handbook_hits(), confidence=0.2), generator=model
    )
    assert made.refused and made.text == REFUSAL and not model.asked and len(made.nearest) == 3
    english = answer_from("Where is it?", found("Where is it?", []), generator=model)
    assert english.text == REFUSAL_EN and english.nearest == ()


def test_a_model_answers_and_is_cited() -> None:
    model = Says("婚假是 10 天[3]，领证之日起一年内一次休完。公司还送汽车。")
    events = list(stream_from("婚假几天？", found("婚假几天？", handbook_hits()), generator=model))
    steps = [event.step for event in events if isinstance(event, Status)]
    assert steps == ["pack", "generate", "cite"]
    assert "".join(e.text for e in events if isinstance(e, Piece)) == model.text
    assert isinstance(events[-1], AnswerReady)
    made = events[-1].answer
    assert [s.support for s in made.sentences] == ["supported", "unsupported"]
    assert made.text == "婚假是 10 天，领证之日起一年内一次休完。[1]公司还送汽车。"
    assert made.generator == "says" and made.trace.finish == "stop" and made.trace.messages == model.asked[0]
    assert made.trace.prompt_tokens > 100 and {"pack", "generate", "cite"} <= made.trace.seconds.keys()


def test_a_model_that_refuses() -> None:
    made = answer_from("婚假？", found("婚假？", handbook_hits()), generator=Says(REFUSAL + "。"))
    assert made.refused and made.text == REFUSAL and made.nearest and made.generator == "says"


def test_cancelling_keeps_what_was_written() -> None:
    cancel = threading.Event()
    events = stream_from(
        "婚假？",
        found("婚假？", handbook_hits()),
        generator=Says("婚假为十天，应在领取结婚证之日起一年内"),
        cancel=cancel,
    )
    last = None
    for event in events:
        if isinstance(event, Piece) and event.text == "，":
            cancel.set()
        last = event
    assert isinstance(last, AnswerReady)
    assert last.answer.text == "婚假为十天，[1]" and last.answer.trace.finish == "stopped"


def test_a_small_context_is_respected() -> None:
    model = Says("好。", context_tokens=2000)
    options = AnswerOptions(generate=GenerateOptions(max_tokens=500), budget_tokens=3000)
    made = answer_from("婚假？", found("婚假？", handbook_hits()), generator=model, options=options)
    assert made.trace.budget_tokens == 200 and made.trace.prompt_tokens + 500 <= 2000
    assert any(one.reason == "budget" for one in made.trace.dropped)


def test_bad_options() -> None:
    with pytest.raises(ValueError, match="budget_tokens"):
        AnswerOptions(budget_tokens=3)


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """A real knowledge base of two files."""
    if not (SHIPPED / "modules.json").is_file():
        pytest.skip("the shipped embedder is not in the package yet")
    from kb.embed import EmbedderConfig, open_embedder
    from kb.knowledge import KnowledgeBase
    from kb.sync import sync

    root: Path = tmp_path_factory.mktemp("rag")
    folder = root / "files"
    folder.mkdir()
    (folder / "假期.md").write_text("# " + HANDBOOK, encoding="utf-8")
    (folder / "薪酬.md").write_text("# " + PAY, encoding="utf-8")
    embedder = open_embedder(EmbedderConfig(model=str(SHIPPED)))
    kb = KnowledgeBase.create(root, "手册", embedder=embedder)
    sync(kb, folder, embedder=embedder)
    return kb, embedder


def test_from_files_to_an_answer(indexed) -> None:  # type: ignore[no-untyped-def]
    kb, embedder = indexed
    options = AnswerOptions(refuse=False)
    made = answer("公积金缴多少？", kbs=[kb], embedder=embedder, options=options)
    assert "百分之十二" in made.text and made.citations[0].hit.document.name == "薪酬.md"
    cited = made.citations[0]
    text = kb.store.page_text(cited.hit.document.id, cited.page) if hasattr(kb.store, "page_text") else None
    assert text is None or cited.quote in text
    assert made.trace.seconds["search"] >= 0


def test_a_follow_up_is_searched_as_it_is_meant(indexed) -> None:  # type: ignore[no-untyped-def]
    kb, embedder = indexed
    history = [Message("user", "婚假有几天？"), Message("assistant", "十天。")]
    events = list(
        stream_answer(
            "那病假呢？",
            kbs=[kb],
            embedder=lambda _: embedder,
            history=history,
            options=AnswerOptions(refuse=False),
        )
    )
    assert [e.step for e in events if isinstance(e, Status)] == ["rewrite", "search", "extract"]
    made = events[-1].answer  # type: ignore[union-attr]
    assert made.trace.rewritten == "病假有几天？" and made.trace.question == "那病假呢？"
    assert "病假" in made.text
