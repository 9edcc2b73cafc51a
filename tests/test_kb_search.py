"""Search over real stores and indexes: both legs, modes, several knowledge bases, joining, duplicates, traces."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_knowledge import TOPICS, embedder_folder, knowledge, static_embedder, topics

from kb.calibrate import calibrate
from kb.candidates import content_terms, gather
from kb.errors import EmbedderMismatch, KnowledgeBaseError, SettingsError
from kb.search import MODES, SearchOptions, search
from kb.tidy import numbers, pieces


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("mode", MODES)
def test_every_topic_is_found_by_its_own_words(tmp_path: Path, metric: str, mode: str) -> None:
    embedder = static_embedder(tmp_path / "model", metric=metric)
    kb = topics(tmp_path, "docs", embedder=embedder)
    calibrate(kb, embedder=embedder)
    for topic, text in TOPICS.items():
        question = text.split("，")[0]
        result = search([kb], question, embedder=embedder, options=SearchOptions(mode=mode))  # type: ignore[arg-type]
        assert result.hits[0].document.name == f"{topic}.txt"
        confidences = [hit.confidence for hit in result.hits]
        assert confidences == sorted(confidences, reverse=True)
        assert all(0 <= c <= 1 for c in confidences)
        scores = [hit.score for hit in result.hits]
        assert scores == sorted(scores, reverse=True)


def test_legs_are_those_of_the_mode_and_ranks_begin_at_one(tmp_path: Path) -> None:
    embedder = static_embedder(tmp_path / "model")
    kb = topics(tmp_path, "docs", embedder=embedder)
    found = search([kb], "错误代码 E3", embedder=embedder)
    assert found.hits[0].document.name == "设备.txt"
    assert {leg.leg for leg in found.hits[0].legs} == {"dense", "lexical"}
    assert next(leg for leg in found.hits[0].legs if leg.leg == "lexical").rank == 1
    only = search([kb], "错误代码 E3", embedder=embedder, options=SearchOptions(mode="dense"))
    assert {leg.leg for hit in only.hits for leg in hit.legs} == {"dense"}
    assert set(found.seconds) >= {"embed", "dense", "lexical", "fuse", "tidy"}


def test_scores_that_a_leg_did_not_give_are_exact(tmp_path: Path) -> None:
    embedder = static_embedder(tmp_path / "model")
    kb = topics(tmp_path, "docs", embedder=embedder)
    query = embedder.encode_queries(["滤芯多久更换"])
    shallow = gather(kb, "滤芯多久更换", query, depth=1).evidence
    deep = gather(kb, "滤芯多久更换", query, depth=50).evidence
    by_id = {int(i): n for n, i in enumerate(deep.chunk_ids)}
    for place, number in enumerate(shallow.chunk_ids):
        other = by_id[int(number)]
        assert shallow.dense[place] == pytest.approx(deep.dense[other], abs=1e-3)
        assert shallow.bm25[place] == pytest.approx(deep.bm25[other], abs=1e-4)
        assert 0 <= shallow.share[place] <= 1


def test_several_knowledge_bases_with_embedders_of_their_own(tmp_path: Path) -> None:
    one, two = static_embedder(tmp_path / "a", seed=1), static_embedder(tmp_path / "b", seed=2)
    half = len(TOPICS) // 2
    items = [(f"{k}.txt", v) for k, v in TOPICS.items()]
    first = knowledge(tmp_path, "first", dict(items[:half]), embedder=one)
    second = knowledge(tmp_path, "second", dict(items[half:]), embedder=two)
    own = {"first": one, "second": two}
    for kb in (first, second):
        calibrate(kb, embedder=own[kb.name])
    for name, text in items:
        result = search([first, second], text.split("，")[0], embedder=lambda kb: own[kb.name])
        assert result.hits[0].document.name == name
    both = search(
        [first, second], "员工", embedder=lambda kb: own[kb.name], options=SearchOptions(join_chars=0)
    )
    assert {hit.kb for hit in both.hits} == {"first", "second"}
    for name in own:
        scores = [hit.score for hit in both.hits if hit.kb == name]
        assert scores == sorted(scores, reverse=True)
    confidences = [hit.confidence for hit in both.hits]
    assert confidences == sorted(confidences, reverse=True)
    with pytest.raises(EmbedderMismatch):
        search([first, second], "请假", embedder=one)


def test_near_duplicates_are_dropped_unless_a_number_differs(tmp_path: Path) -> None:
    embedder = static_embedder(tmp_path / "model")
    text = TOPICS["净水"]
    documents = {
        "a.txt": text,
        "b.txt": text + "谢谢",
        "c.txt": text.replace("六个月", "九个月"),
        "d.txt": TOPICS["食堂"],
    }
    kb = knowledge(tmp_path, "docs", documents, embedder=embedder)
    result = search([kb], "滤芯多久更换一次", embedder=embedder)
    names = {hit.document.name for hit in result.hits}
    assert "c.txt" in names and len(names & {"a.txt", "b.txt"}) == 1
    assert [d.reason for d in result.dropped].count("near-duplicate") == 1
    assert numbers("共 12,000 元，三成") == {"12,000", "三"}
    assert pieces("\uff21\uff22\uff23\uff24 e") == {"abcd", "bcde"}


def test_neighbouring_passages_become_one_hit_that_still_points_at_its_source(tmp_path: Path) -> None:
    embedder = static_embedder(tmp_path / "model")
    text = "\n\n".join(body * 4 for body in list(TOPICS.values())[:4])
    kb = knowledge(tmp_path, "docs", {"long.txt": text}, embedder=embedder)
    assert kb.store.counts()["passages"] >= 2
    whole = search([kb], "滤芯更换 指示灯变红", embedder=embedder)
    joined = [hit for hit in whole.hits if hit.joined]
    assert joined and any(d.reason == "joined" for d in whole.dropped)
    for hit in whole.hits:
        assert len(hit.passage.text) <= SearchOptions().join_chars
        for span in hit.passage.spans:
            assert hit.passage.text[span.offset :].startswith(text[span.start : span.end])
        assert hit.passage.text[hit.chunk.start : hit.chunk.end] in hit.chunk.text
        assert 1 <= hit.page <= 1
    apart = search([kb], "滤芯更换 指示灯变红", embedder=embedder, options=SearchOptions(join_chars=0))
    assert not any(hit.joined for hit in apart.hits)


def test_limits_and_odd_questions(tmp_path: Path) -> None:
    embedder = static_embedder(tmp_path / "model")
    kb = topics(tmp_path, "docs", embedder=embedder)
    assert search([kb], "   ", embedder=embedder).hits == ()
    for question in ("？", "zzzz", "\u0000", "吗", "什么", "'; DROP TABLE chunks; --", "AND OR NOT body:*"):
        assert not search([kb], question, embedder=embedder).answerable
    assert len(search([kb], "员工", embedder=embedder, options=SearchOptions(limit=2)).hits) <= 2
    with pytest.raises(KnowledgeBaseError, match="characters"):
        search([kb], "长" * 5000, embedder=embedder)
    with pytest.raises(KnowledgeBaseError):
        search([], "员工", embedder=embedder)
    for bad in ({"limit": 0}, {"mode": "fuzzy"}, {"threshold": 2.0}, {"depth": 0}, {"duplicate": 0.0}):
        with pytest.raises(SettingsError):
            SearchOptions(**bad)  # type: ignore[arg-type]


def test_an_empty_knowledge_base_refuses(tmp_path: Path) -> None:
    embedder = static_embedder(tmp_path / "model")
    kb = knowledge(tmp_path, "empty", {}, embedder=embedder)
    calibrate(kb, embedder=embedder)
    result = search([kb], "年假有几天", embedder=embedder)
    assert result.hits == () and not result.answerable


def test_what_is_deleted_is_not_found(tmp_path: Path) -> None:
    embedder = static_embedder(tmp_path / "model")
    kb = topics(tmp_path, "docs", embedder=embedder)
    assert search([kb], "净水机的滤芯", embedder=embedder).hits[0].document.name == "净水.txt"
    kb.store.delete_document("净水.txt")
    after = search([kb], "净水机的滤芯", embedder=embedder)
    assert "净水.txt" not in {hit.document.name for hit in after.hits}


def test_words_that_only_ask_do_not_count() -> None:
    assert set(content_terms("年假怎么休？")) == {"年", "假", "年假", "休"}
    assert content_terms("什么")


def test_searching_with_a_static_embedder_does_not_import_torch(tmp_path: Path) -> None:
    model = embedder_folder(tmp_path / "model")
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from made_knowledge import topics
from kb.embed import EmbedderConfig, open_embedder
from kb.calibrate import calibrate
from kb.search import search
embedder = open_embedder(EmbedderConfig(model={str(model)!r}))
kb = topics(Path({str(tmp_path)!r}), "docs", embedder=embedder)
calibrate(kb, embedder=embedder)
assert search([kb], "病假", embedder=embedder).hits
assert not {{"torch", "transformers", "sentence_transformers"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent, timeout=120)


def test_a_useless_embedder_changes_nothing_and_a_perfect_one_rules() -> None:
    from kb.fusion import Evidence, fused, weight_of

    draw = np.random.default_rng(0)
    evidence = Evidence(
        chunk_ids=np.arange(50),
        dense=draw.random(50).astype(np.float32),
        z=np.where(np.arange(50) == 37, 4.5, draw.uniform(-2, 2, 50)).astype(np.float32),
        bm25=np.linspace(20, 1, 50).astype(np.float32),
        bound=40.0,
        share=np.linspace(0.6, 0.05, 50).astype(np.float32),
    )
    assert weight_of(0.0) == weight_of(float("nan")) == 0.0
    assert list(np.argsort(-fused(evidence, weight=weight_of(0.02)))) == list(range(50))
    assert int(np.argmax(fused(evidence, weight=weight_of(3.0)))) == 37
    grown = [weight_of(t) for t in np.linspace(0, 4, 50)]
    assert grown == sorted(grown)
