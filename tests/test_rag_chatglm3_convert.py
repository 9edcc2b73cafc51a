"""Official folder -> standard folder: loads with AutoModel and AutoTokenizer, exact weights, all or nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_chatglm3 import write_official

from kb.errors import ModelError
from rag.chatglm3.base import base_hash
from rag.chatglm3.convert import convert
from rag.chatglm3.folder import sha256_of
from rag.chatglm3.shape import FULL_PARAMETERS, GlmShape, read_native, read_official


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_official(tmp_path_factory.mktemp("hub") / "chatglm3-6b")


def load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder)


def test_full_size_counts() -> None:
    shape = GlmShape(28, 4096, 32, 2, 128, 13696, 65024, 8192)
    assert shape.parameters == FULL_PARAMETERS
    assert shape.kv_bytes_per_token == 28 * 1024


def test_loads_anywhere(official: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, GlmForCausalLM

    done: list[tuple[int, int]] = []
    report = convert(
        official, target=tmp_path / "glm", progress=lambda now, total, what: done.append((now, total))
    )
    model = load(tmp_path / "glm")
    assert type(model) is GlmForCausalLM
    assert (
        sum(p.numel() for p in model.parameters())
        == report.shape.parameters
        == read_native(tmp_path / "glm").parameters
    )
    config = model.config
    assert (config.pad_token_id, config.head_dim, config.rms_norm_eps) == (0, 16, 1e-5)
    assert config.rope_parameters["partial_rotary_factor"] == 0.5
    assert str(model.dtype) == "torch.float16"
    assert AutoTokenizer.from_pretrained(tmp_path / "glm").chat_template
    assert model.generation_config.eos_token_id == config.eos_token_id == [2, 626, 628]
    assert done[-1][0] == done[-1][1] == report.bytes
    assert sorted(done) == done
    assert not list(tmp_path.glob("**/*.py"))


def test_provenance_and_hash(official: Path, tmp_path: Path) -> None:
    convert(official, target=tmp_path / "half")
    convert(official, target=tmp_path / "wide", dtype="float32", shard_bytes=100_000)
    assert len(list((tmp_path / "wide").glob("model-*.safetensors"))) > 2
    assert base_hash(tmp_path / "half") == base_hash(tmp_path / "wide")
    provenance = json.loads((tmp_path / "half" / "provenance.json").read_text())
    for name, digest in provenance["files_sha256"].items():
        assert sha256_of(tmp_path / "half" / name) == digest
    (tmp_path / "half" / "provenance.json").unlink()
    assert base_hash(tmp_path / "half") == base_hash(tmp_path / "wide"), (
        "the weights themselves give the same hash"
    )
    other = write_official(tmp_path / "other", seed=1)
    assert convert(other, target=tmp_path / "third").base_hash != base_hash(tmp_path / "wide")


def test_bin_shards_give_the_same(official: Path, tmp_path: Path) -> None:
    binary = write_official(tmp_path / "bin", binary=True)
    assert (
        convert(binary, target=tmp_path / "a").base_hash == convert(official, target=tmp_path / "b").base_hash
    )


def test_a_pickle_that_runs_code_is_refused(official: Path, tmp_path: Path) -> None:
    binary = write_official(tmp_path / "bin", binary=True)
    attack = b"cposix\nsystem\n(S'touch " + str(tmp_path / "owned").encode() + b"'\ntR."
    (binary / "pytorch_model-00001-of-00002.bin").write_bytes(attack)
    with pytest.raises(ModelError, match="not a plain weights file"):
        convert(binary, target=tmp_path / "out")
    assert not (tmp_path / "owned").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("ratio", "theta"), [(1, 10_000.0), (50, 500_000.0), (500, 5_000_000.0)])
def test_long_variants(tmp_path: Path, ratio: int, theta: float) -> None:
    source = write_official(tmp_path / "long", rope_ratio=ratio, seq_length=32768)
    convert(source, target=tmp_path / "out")
    config = load(tmp_path / "out").config
    assert config.rope_parameters["rope_theta"] == theta
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["rope_theta"] == theta, "transformers 4 reads it there and would take 10,000 instead"
    assert config.max_position_embeddings == 32768


def test_chatglm2(tmp_path: Path) -> None:
    source = write_official(tmp_path / "two", _name_or_path="THUDM/chatglm2-6b")
    assert read_official(source).family == "chatglm2"
    convert(source, target=tmp_path / "out")
    assert load(tmp_path / "out").config.eos_token_id == [2]
    assert "[Round " in (tmp_path / "out" / "chat_template.jinja").read_text(encoding="utf-8")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"rope_ratio": 16}))
    with pytest.raises(ModelError, match="stretches positions"):
        convert(source, target=tmp_path / "no")


def test_an_interruption_leaves_nothing(official: Path, tmp_path: Path) -> None:
    def interrupt(done: int, total: int, what: str) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(official, target=tmp_path / "out", progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed(official: Path, tmp_path: Path) -> None:
    left = tmp_path / ".out.99999999.partial"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    convert(official, target=tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_existing_folder_is_kept_unless_told(official: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("x")
    with pytest.raises(ModelError, match="exists already"):
        convert(official, target=tmp_path / "out")
    convert(official, target=tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / "mine.txt").exists()
    with pytest.raises(ModelError, match="converted already"):
        convert(tmp_path / "out", target=tmp_path / "again")


def test_links_and_files_where_the_folder_will_be(official: Path, tmp_path: Path) -> None:
    """models/chatglm3-6b is often a link to a larger disk: the link stays."""
    (tmp_path / "disk").mkdir()
    for name, there in (("empty", True), ("new", False)):
        if there:
            (tmp_path / "disk" / name).mkdir()
        (tmp_path / name).symlink_to(tmp_path / "disk" / name)
        convert(official, target=tmp_path / name, overwrite=True)
        convert(official, target=tmp_path / name, overwrite=True)
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "disk" / name / "config.json").is_file()
    (tmp_path / "file [1]").write_text("x")
    convert(official, target=tmp_path / "file [1]", overwrite=True)
    names = {p.name for folder in (tmp_path, tmp_path / "disk") for p in folder.iterdir()}
    assert names == {"disk", "empty", "new", "file [1]"}


def test_what_would_replace_its_own_source_is_refused(official: Path, tmp_path: Path) -> None:
    real = shutil.copytree(official, tmp_path / "models" / "real")
    with pytest.raises(ModelError, match="would be replaced with it"):
        convert(real, target=tmp_path / "models", overwrite=True)
    assert (real / "config.json").is_file()


def test_bad_folders_say_what_is_wrong(official: Path, tmp_path: Path) -> None:
    def broken(name: str) -> Path:
        return Path(shutil.copytree(official, tmp_path / name))

    missing = broken("missing")
    (missing / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match="lacks model-00002-of-00002"):
        convert(missing, target=tmp_path / "out")
    cut = broken("cut")
    whole = (cut / "model-00001-of-00002.safetensors").read_bytes()
    (cut / "model-00001-of-00002.safetensors").write_bytes(whole[:-100])
    with pytest.raises(ModelError, match="is broken"):
        convert(cut, target=tmp_path / "out")
    wrong = write_official(tmp_path / "wrong")
    config = json.loads((wrong / "config.json").read_text())
    (wrong / "config.json").write_text(json.dumps(config | {"ffn_hidden_size": 95}))
    with pytest.raises(ModelError, match="does not fit config"):
        convert(wrong, target=tmp_path / "out")
    (wrong / "config.json").write_text(json.dumps(config | {"add_bias_linear": True}))
    with pytest.raises(ModelError, match="add_bias_linear is True"):
        convert(wrong, target=tmp_path / "out")
    (wrong / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ModelError, match="model_type is 'llama'"):
        convert(wrong, target=tmp_path / "out")
    no_words = broken("no_words")
    (no_words / "tokenizer.model").unlink()
    with pytest.raises(ModelError, match=r"tokenizer\.model is missing"):
        convert(no_words, target=tmp_path / "out")
    assert not (tmp_path / "out").exists()
