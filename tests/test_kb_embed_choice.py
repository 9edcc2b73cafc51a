"""Which embedder is opened, what is said about it, and how a missing or broken one is reported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tiny_embedders import bert_folder, static_folder

import kb.embed.choose
import kb.embed.locate
from kb.embed import EmbedderConfig, choose_embedder, find_model, open_embedder
from kb.errors import EmbedderError, SettingsError

TEXT2VEC = "shibing624/text2vec-base-chinese"


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shipped model of our own, and an empty hub cache."""
    folder = static_folder(tmp_path / "zhiwen-embed-zh")
    monkeypatch.setattr(kb.embed.locate, "SHIPPED", folder)
    monkeypatch.setattr(kb.embed.choose, "SHIPPED", folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return folder


def test_the_shipped_one_is_said_aloud(shipped: Path, tmp_path: Path) -> None:
    choice = choose_embedder(EmbedderConfig(), models_folder=tmp_path / "models")
    assert choice.embedder.name == "zhiwen-embed-zh"
    for message in (choice.message_zh, choice.message_en):
        assert "zhiwen models pull text2vec-base-chinese" in message and "zhiwen-embed-zh" in message


@pytest.mark.parametrize(
    "place",
    ["text2vec-base-chinese", "shibing624--text2vec-base-chinese", "shibing624/text2vec-base-chinese"],
)
def test_text2vec_goes_before_the_shipped_one(shipped: Path, tmp_path: Path, place: str) -> None:
    bert_folder(tmp_path / "models" / place)
    choice = choose_embedder(EmbedderConfig(), models_folder=tmp_path / "models")
    assert (choice.embedder.name, choice.message_zh, choice.message_en) == (TEXT2VEC, "", "")
    assert choice.embedder.max_tokens == 126


def test_text2vec_is_found_in_the_hub_cache(shipped: Path, tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--shibing624--text2vec-base-chinese"
    bert_folder(repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    assert choose_embedder(EmbedderConfig(), models_folder=None).embedder.name == TEXT2VEC


def test_what_is_set_goes_before_all(shipped: Path, tmp_path: Path) -> None:
    bert_folder(tmp_path / "models" / "text2vec-base-chinese")
    own = static_folder(tmp_path / "own")
    choice = choose_embedder(EmbedderConfig(model=str(own)), models_folder=tmp_path / "models")
    assert (choice.embedder.name, choice.message_zh) == ("own", "")
    by_name = choose_embedder(EmbedderConfig(model="zhiwen-embed-zh"), models_folder=tmp_path / "models")
    assert by_name.embedder.name == "zhiwen-embed-zh"


def test_a_path_goes_before_a_hub_id(shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    static_folder(tmp_path / "org" / "name")
    static_folder(tmp_path / "models" / "org" / "name")
    assert find_model("org/name", models_folder=tmp_path / "models") == Path("org/name")


def test_a_missing_model_names_the_command(shipped: Path, tmp_path: Path) -> None:
    with pytest.raises(EmbedderError, match="zhiwen models pull bge-small-zh") as caught:
        open_embedder(EmbedderConfig(model="BAAI/bge-small-zh"), models_folder=tmp_path / "models")
    assert "zhiwen models pull bge-small-zh" in caught.value.zh and "本机没有" in caught.value.zh
    with pytest.raises(EmbedderError, match="not on this machine"):
        open_embedder(EmbedderConfig(model="../../etc"), models_folder=tmp_path / "models")


def test_broken_models_are_reported(shipped: Path, tmp_path: Path) -> None:
    broken = static_folder(tmp_path / "broken")
    (broken / "0_StaticEmbedding" / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(EmbedderError, match="cannot be read"):
        open_embedder(EmbedderConfig(model=str(broken)))
    (broken / "modules.json").write_text("{", encoding="utf-8")
    with pytest.raises(EmbedderError, match=r"modules\.json"):
        open_embedder(EmbedderConfig(model=str(broken)))
    (broken / "modules.json").write_text('[{"path": "../x", "type": "a.StaticEmbedding"}]', encoding="utf-8")
    with pytest.raises(EmbedderError, match="outside"):
        open_embedder(EmbedderConfig(model=str(broken)))
    empty = bert_folder(tmp_path / "empty")
    (empty / "model.safetensors").unlink()
    with pytest.raises(EmbedderError, match="cannot be loaded"):
        open_embedder(EmbedderConfig(model=str(empty)))


def test_settings_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="metric"):
        EmbedderConfig(metric="dot")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="dtype"):
        EmbedderConfig(dtype="int3")
    model = bert_folder(tmp_path / "model")
    with pytest.raises(EmbedderError, match="cuda:99"):
        open_embedder(EmbedderConfig(model=str(model), device="cuda:99"))
    with pytest.raises(EmbedderError, match="prefixes"):
        open_embedder(EmbedderConfig(model=str(model), query_prefix="坤" * 125))


def test_the_static_way_never_imports_torch(tmp_path: Path) -> None:
    folder = static_folder(tmp_path / "model")
    code = (
        "import sys; from kb.embed import EmbedderConfig, open_embedder\n"
        f"open_embedder(EmbedderConfig(model={str(folder)!r})).encode_queries(['问'])\n"
        "bad = {'torch', 'transformers', 'sentence_transformers', 'langchain_core'} & set(sys.modules)\n"
        "sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
