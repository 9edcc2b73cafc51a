"""verify finds what is wrong with a folder; export gives back the official bytes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import SHARED
from tiny_chatglm3 import write_official

from kb.errors import ModelError
from rag.chatglm3.convert import convert
from rag.chatglm3.export import export
from rag.chatglm3.forward import streamed_logits
from rag.chatglm3.shape import read_native, read_official
from rag.chatglm3.shards import find_checkpoint, read_tensors
from rag.chatglm3.verify import VerifyReport, official_tensors, verify

MINI = SHARED / "golden" / "chatglm3-mini"


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_official(tmp_path_factory.mktemp("source") / "chatglm3-6b")


@pytest.fixture(scope="module")
def standard(official: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(official, target=tmp_path_factory.mktemp("standard") / "glm").folder


def failed(report: VerifyReport) -> dict[str, str]:
    return {check.name: check.en for check in report.checks if not check.ok}


def test_a_sound_folder(standard: Path, official: Path) -> None:
    steps: list[str] = []
    report = verify(standard, official=official, progress=steps.append)
    assert report.ok, failed(report)
    assert steps == ["shapes", "hashes", "tokens", "forward", "equality"] == [c.name for c in report.checks]
    assert f"{read_native(standard).parameters:,} parameters" in report.checks[0].en


def test_the_official_vocabulary(tmp_path: Path) -> None:
    if not MINI.is_dir():
        pytest.skip(f"the mini checkpoint carries the official tokenizer; looked for {MINI}")
    convert(MINI, target=tmp_path / "mini")
    report = verify(tmp_path / "mini", official=MINI)
    assert report.ok, failed(report)
    assert "equal to the official answers" in report.checks[2].en


def test_the_streamed_forward_is_the_models(standard: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    ids = [5, 300, 622, 17, 450]
    model = AutoModelForCausalLM.from_pretrained(standard, dtype=torch.float32)
    with torch.inference_mode():
        expected = model(torch.tensor([ids])).logits[0]
    logits = streamed_logits(standard, ids=ids, shape=read_native(standard))
    assert (logits - expected).abs().max() < 1e-5


def test_every_kind_of_damage_is_found(standard: Path, official: Path, tmp_path: Path) -> None:
    def damaged(name: str) -> Path:
        return Path(shutil.copytree(standard, tmp_path / name))

    flipped = damaged("flipped")
    data = bytearray((flipped / "model.safetensors").read_bytes())
    data[-2000] ^= 1
    (flipped / "model.safetensors").write_bytes(data)
    assert set(failed(verify(flipped))) == {"hashes"}
    assert set(failed(verify(flipped, official=official))) == {"hashes", "equality"}

    cut = damaged("cut")
    (cut / "model.safetensors").write_bytes(data[:-10])
    assert "header says" in failed(verify(cut))["shapes"]

    wide = damaged("wide")
    config = json.loads((wide / "config.json").read_text())
    (wide / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    assert "missing model.layers.2" in failed(verify(wide))["shapes"]

    wordless = damaged("wordless")
    table = json.loads((wordless / "tokenizer.json").read_text(encoding="utf-8"))
    table["model"]["merges"] = table["model"]["merges"][:5]
    (wordless / "tokenizer.json").write_text(json.dumps(table), encoding="utf-8")
    (wordless / "provenance.json").unlink()
    assert set(failed(verify(wordless))) == {"tokens"}

    other = write_official(tmp_path / "other", seed=3)
    assert set(failed(verify(standard, official=other))) == {"equality"}
    with pytest.raises(ModelError, match="not a converted ChatGLM"):
        verify(official)


def test_damage_is_told_and_not_thrown(standard: Path, tmp_path: Path) -> None:
    """Files that a broken copy or a full disk leaves: the report goes on and names them."""
    for file, content, words in (
        ("tokenizer.json", b"", "tokenizer.json is broken"),
        ("tokenizer.json", b"\xff{}", "tokenizer.json is broken"),
        ("tokenizer.model", b"", "tokenizer.model is broken"),
        ("config.json", (standard / "config.json").read_bytes().replace(b"silu", b"salu"), "salu"),
    ):
        folder = tmp_path / "damaged"
        shutil.copytree(standard, folder)
        (folder / file).write_bytes(content)
        told = failed(verify(folder))
        assert file in told["hashes"] and any(words in text for text in told.values()), told
        shutil.rmtree(folder)
    shutil.copytree(standard, tmp_path / "numbers")
    config = json.loads((standard / "config.json").read_text())
    (tmp_path / "numbers" / "config.json").write_text(json.dumps(config | {"hidden_size": None}))
    with pytest.raises(ModelError, match="hidden_size is None, no number"):
        verify(tmp_path / "numbers")


def test_an_empty_shard_is_named(tmp_path: Path) -> None:
    source = write_official(tmp_path / "bin", binary=True)
    (source / "pytorch_model-00002-of-00002.bin").write_bytes(b"")
    with pytest.raises(
        ModelError, match=r"00002\.bin is not a plain weights file, or it is broken: EOFError"
    ):
        convert(source, target=tmp_path / "out")


def test_not_a_number_is_found(official: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = convert(official, target=tmp_path / "glm").folder
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][3, 4] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "provenance.json").unlink()
    assert set(failed(verify(folder))) == {"forward"}


def test_export_gives_back_the_official_tensors(standard: Path, official: Path, tmp_path: Path) -> None:
    import torch

    out = export(standard, target=tmp_path / "out", shard_bytes=60_000)
    assert len(find_checkpoint(out).files) > 2
    ours, theirs = dict(official_tensors(out)), dict(official_tensors(official))
    del theirs["transformer.rotary_pos_emb.inv_freq"]
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert read_official(out) == read_official(official)
    assert (out / "tokenizer.model").read_bytes() == (official / "tokenizer.model").read_bytes()
    again = convert(out, target=tmp_path / "again")
    assert json.loads((standard / "provenance.json").read_text())["base_hash"] == again.base_hash


def test_the_long_variant_keeps_its_ratio(tmp_path: Path) -> None:
    source = write_official(tmp_path / "long", rope_ratio=50)
    folder = convert(source, target=tmp_path / "glm").folder
    export(folder, target=tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["rope_ratio"] == 50


def test_no_shard_is_read_twice_into_memory(official: Path) -> None:
    file = official / find_checkpoint(official).files[0]
    assert len(dict(read_tensors(file))) > 3
