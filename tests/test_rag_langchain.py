"""The retriever and the chat model inside LangChain chains."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from rag_samples import HANDBOOK, Says, found, handbook_hits

from kb.embed import SHIPPED

pytest.importorskip("langchain_core")

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough

from rag.langchain import ChatZhiwen, ZhiwenRetriever, as_messages


def retriever(confidence: float = 0.9) -> ZhiwenRetriever:
    return ZhiwenRetriever(find=lambda question: found(question, handbook_hits(), confidence=confidence))


def test_documents_have_their_place() -> None:
    documents = retriever().invoke("婚假")
    assert len(documents) == 3
    about = documents[0].metadata
    assert about["file"] == "员工手册.md" and about["page"] == 3 and about["headings"] == ["第三章 休假"]
    assert about["spans"] == [(3, 0, len(documents[0].page_content))] and about["score"] == 1.0
    assert retriever(0.1).invoke("食堂") == []
    free = ZhiwenRetriever(find=lambda q: found(q, handbook_hits(), confidence=0.1), refuse=False)
    assert len(free.invoke("食堂")) == 3


def test_a_chain() -> None:
    model = Says("婚假为十天。")
    prompt = ChatPromptTemplate.from_messages(
        [("system", "只看资料。"), ("human", "{context}\n\n{question}")]
    )
    chain = (
        {
            "context": retriever() | (lambda ds: "\n".join(d.page_content for d in ds)),
            "question": RunnablePassthrough(),
        }
        | prompt
        | ChatZhiwen(generator=model)
        | StrOutputParser()
    )
    assert chain.invoke("婚假几天？") == "婚假为十天。"
    assert [m.role for m in model.asked[0]] == ["system", "user"] and "婚假为十天" in model.asked[0][
        1
    ].content
    assert "".join(chain.stream("婚假几天？")) == "婚假为十天。"
    assert chain.batch(["一", "二"]) == ["婚假为十天。"] * 2


def test_stop_bind_and_usage() -> None:
    model = Says("一二三四五")
    chat = ChatZhiwen(generator=model, max_tokens=3)
    said = chat.invoke("数")
    assert said.content == "一二三" and said.response_metadata["finish_reason"] == "length"
    assert said.usage_metadata == {"input_tokens": 1, "output_tokens": 3, "total_tokens": 4}
    assert chat.bind(stop=["三"], max_tokens=9).invoke("数").content == "一二"
    assert model.options[-1].stop == ("三",) and model.options[-1].max_tokens == 9
    with pytest.raises(ValueError, match="tools"):
        chat.invoke("数", tools=[])


def test_the_cache_knows_adapters_apart() -> None:
    from langchain_core.caches import InMemoryCache

    generator, cache = Says("好。"), InMemoryCache()
    for settings in ({"adapter": "a"}, {"adapter": "b"}, {"adapter": "a"}, {"seed": 3}, {"top_p": 0.5}):
        ChatZhiwen(generator=generator, cache=cache, **settings).invoke("问")
    assert [(o.adapter, o.seed, o.top_p) for o in generator.options] == [
        ("a", None, 1.0), ("b", None, 1.0), ("", 3, 1.0), ("", None, 0.5),
    ]  # fmt: skip


def test_streaming_can_be_left() -> None:
    stream = ChatZhiwen(generator=Says("一二三四五")).stream("数")
    assert next(stream).content == "一"
    stream.close()


def test_messages() -> None:
    ours = as_messages(
        [
            SystemMessage("甲"),
            HumanMessage([{"type": "text", "text": "乙"}]),
            AIMessage("丙"),
            ToolMessage("丁", tool_call_id="1"),
        ]
    )
    assert [(m.role, m.content) for m in ours] == [
        ("system", "甲"), ("user", "乙"), ("assistant", "丙"), ("observation", "丁"),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="only text"):
        as_messages([HumanMessage([{"type": "image_url", "image_url": {"url": "x"}}])])


def test_nothing_else_imports_langchain() -> None:
    code = (
        "import rag.answer, rag.generate.openai_client, rag.generate.openai_server, rag.evaluate, sys; "
        "bad = [m for m in sys.modules if m.startswith(('langchain', 'torch', 'jieba', 'httpx', 'starlette'))]; assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_page_in_the_docs_runs(tmp_path: Path) -> None:
    """The chain of docs/langchain.md over a real knowledge base."""
    if not (SHIPPED / "modules.json").is_file():
        pytest.skip("the shipped embedder is not in the package yet")
    from kb.embed import EmbedderConfig, open_embedder
    from kb.knowledge import KnowledgeBase
    from kb.sync import sync

    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "假期.md").write_text("# " + HANDBOOK, encoding="utf-8")
    embedder = open_embedder(EmbedderConfig(model=str(SHIPPED)))
    sync(KnowledgeBase.create(tmp_path, "手册", embedder=embedder), folder, embedder=embedder)
    page = (ROOT / "docs" / "langchain.md").read_text(encoding="utf-8")
    code = page.split("```python\n")[1].split("```")[0]
    model = Says("婚假为十天。")
    names = {"home": tmp_path, "generator": model}
    exec(compile(code, "docs/langchain.md", "exec"), names)
    assert names["answer"] == "婚假为十天。"
    assert "假期.md p.1" in model.asked[0][1].content and "婚假为十天" in model.asked[0][1].content
