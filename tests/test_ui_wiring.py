"""Putting parts together: names, embedders that are remembered, generators that are kept."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from kb.errors import EmbedderMismatch, KnowledgeBaseNotFound, ModelError, SettingsError
from ui import wiring
from ui.settings import EmbedderSettings, GeneratorSettings, SearchSettings, Settings


@pytest.mark.parametrize(
    ("folder", "name"),
    [("docs", "docs"), ("公司 制度（新）", "公司-制度-新"), ("...", "default"), ("a/../b c", "b-c")],
)
def test_a_knowledge_base_is_called_like_its_folder(tmp_path: Path, folder: str, name: str) -> None:
    from kb.knowledge import check_name

    assert check_name(wiring.kb_name_for(tmp_path / folder)) == name


def test_settings_reach_the_embedder() -> None:
    wanted = EmbedderSettings(model="m", query_prefix="q", metric="ip", device="cpu", dtype="float32")
    config = wiring.embedder_config(Settings(home=Path("x"), embedder=wanted))
    assert dataclasses.asdict(config) == dataclasses.asdict(wanted)


def test_a_knowledge_base_is_opened_with_what_built_it(home: Path) -> None:
    built = Settings(home=home, embedder=EmbedderSettings(model="zhiwen-embed-zh", metric="l2"))
    kb, _ = wiring.open_or_create(built, "k")
    assert wiring.embedder_of(kb, Settings(home=home)).metric == "l2"


def test_an_updated_embedder_says_how_to_rebuild(home: Path) -> None:
    kb, _ = wiring.open_or_create(Settings(home=home), "k")
    record = dataclasses.replace(kb.embedder_record, fingerprint="of an older release")
    import json

    kb.store.set_meta("embedder_record", json.dumps(dataclasses.asdict(record)))
    with pytest.raises(EmbedderMismatch, match="--kb k --rebuild"):
        wiring.embedder_of(kb, Settings(home=home))


def test_what_is_missing_is_named(home: Path) -> None:
    settings = Settings(home=home)
    with pytest.raises(KnowledgeBaseNotFound, match="zhiwen index"):
        wiring.open_kbs(settings)
    lost = Settings(home=home, search=SearchSettings(reranker="no/such"))
    with pytest.raises(SettingsError, match=r"search\.reranker"):
        wiring.search_options(lost)
    wanted = GeneratorSettings(kind="chatglm3", model="chatglm3-6b")
    with pytest.raises(ModelError, match="zhiwen models convert"):
        wiring.open_generator(Settings(home=home, generator=wanted))


def test_generators_are_kept(home: Path) -> None:
    assert wiring.open_generator(Settings(home=home)) is None
    wanted = GeneratorSettings(kind="openai", model="m", base_url="http://127.0.0.1:9/v1")
    first = wiring.open_generator(Settings(home=home, generator=wanted))
    assert first is not None and first is wiring.open_generator(Settings(home=home, generator=wanted))
    assert first.context_tokens == wanted.context_tokens
