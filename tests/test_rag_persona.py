"""Kept role descriptions."""

from __future__ import annotations

from pathlib import Path

import pytest
from rag_samples import Says, found, handbook_hits

from kb.errors import DataError
from rag.answer import AnswerOptions, answer_from
from rag.persona import BUILT_IN, Persona, find_persona, personas, read_persona, remove_persona, save_persona


def test_built_in_ones_answer_from_documents_only() -> None:
    assert any(persona.name == "诸葛亮" for persona in BUILT_IN)
    assert all("只能依据已知信息" in persona.system and persona.title for persona in BUILT_IN)


def test_kept_in_a_folder_and_before_built_in_ones(tmp_path: Path) -> None:
    mine = Persona("诸葛亮", "你是我的诸葛亮。", "我的")
    path = save_persona(mine, folder=tmp_path)
    assert read_persona(path) == mine == find_persona("诸葛亮", folder=tmp_path)
    assert len(personas(tmp_path)) == len(BUILT_IN)
    remove_persona("诸葛亮", folder=tmp_path)
    assert find_persona("诸葛亮", folder=tmp_path) in BUILT_IN
    with pytest.raises(DataError, match="built in"):
        remove_persona("诸葛亮", folder=tmp_path)


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "a b", "x" * 33, "-x", "a\n"])
def test_names_are_no_paths(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="persona"):
        Persona(name, "你是甲。")
    with pytest.raises(DataError, match="persona"):
        find_persona(name, folder=tmp_path)


def test_errors_name_the_file_or_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="诸葛亮"):
        find_persona("没有", folder=tmp_path)
    for content in ("{", "[]", '{"system": 3}', '{"system": ""}'):
        (tmp_path / "坏.json").write_text(content, encoding="utf-8")
        with pytest.raises(DataError):
            personas(tmp_path)
    with pytest.raises(DataError, match="4000"):
        Persona("长", "字" * 4001)


def test_the_model_is_told() -> None:
    model = Says("亮以为，婚假为十天。")
    options = AnswerOptions(persona=find_persona("诸葛亮"))
    made = answer_from("婚假几天？", found("婚假几天？", handbook_hits()), generator=model, options=options)
    assert model.asked[0][0].role == "system" and "孔明" in model.asked[0][0].content
    assert made.citations
