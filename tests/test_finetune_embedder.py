"""The shipped embedder's training: a tiny one is really trained; its folder reads the same everywhere."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from finetune.embedder import card, model, score
from finetune.embedder.__main__ import main
from finetune.embedder.corpus import Pair, Source, answering_chunk, chunks, paragraphs, read_sources
from finetune.embedder.recipe import Recipe
from finetune.embedder.synonyms import Swaps, as_source, read_groups
from finetune.embedder.train import SPECIAL, TrainConfig, pack, train
from finetune.embedder.vocabulary import build_tokenizer, count_words, fold_rules
from kb.errors import DataError, EmbedderError
from tests.conftest import SHARED

TINY = TrainConfig(dimensions=32, steps=60, batch=64, rate=0.02)
CONCEPTS = 60


def _words(rng: random.Random) -> list[tuple[str, str]]:
    """Everyday and formal names of the same concepts; no character in common."""
    characters = [
        bytes((high, low)).decode("gb2312") for high in range(0xB0, 0xB8) for low in range(0xA1, 0xFF)
    ]
    rng.shuffle(characters)
    cut = [characters[i : i + 2] for i in range(0, CONCEPTS * 4, 2)]
    return [("".join(cut[2 * i]), "".join(cut[2 * i + 1])) for i in range(CONCEPTS)]


def _pairs(count: int, *, words: list[tuple[str, str]], rng: random.Random) -> list[Pair]:
    pairs = []
    for number in range(count):
        chosen = rng.sample(words, 3)
        pairs.append(Pair("，".join(a for a, _ in chosen), "。".join(b for _, b in chosen), f"g{number}"))
    return pairs


@pytest.fixture(scope="module")
def lesson() -> tuple[Source, score.RetrievalSet]:
    """Pairs to train on, and a retrieval set of other combinations of the same words."""
    rng = random.Random(5)
    words = _words(rng)
    learned = _pairs(1500, words=words, rng=rng)
    asked = _pairs(150, words=words, rng=rng)
    texts = tuple(text for pair in learned for text in (pair.query, pair.passage))
    held_out = score.RetrievalSet(
        "generated", [p.query for p in asked], [p.passage for p in asked], [{i} for i in range(len(asked))]
    )
    return Source("generated", tuple(learned), texts, 1.0), held_out


@pytest.fixture(scope="module")
def tokenizer(lesson: tuple[Source, score.RetrievalSet]) -> object:
    counts: Counter[str] = Counter()
    for pair in lesson[0].pairs:
        counts.update(piece for piece in pair.query.split("，"))
        counts.update(piece for piece in pair.passage.split("。"))
    return build_tokenizer(counts, size=8200)


def _recall(made: model.StaticModel, asked: score.RetrievalSet) -> float:
    return score.measure(score.dense_scores(made, asked), asked.right).recall_1


def test_training_links_words_that_share_no_character(lesson, tokenizer) -> None:  # type: ignore[no-untyped-def]
    source, asked = lesson
    packed = pack([source], tokenizer)
    before = _recall(train(tokenizer, packed, config=TrainConfig(dimensions=32, steps=1, rate=0.0)), asked)
    after = _recall(train(tokenizer, packed, config=TINY), asked)
    assert before < 0.1
    assert after > 0.8


def test_the_same_seed_gives_the_same_rows_and_another_seed_others(lesson, tokenizer) -> None:  # type: ignore[no-untyped-def]
    packed = pack([lesson[0]], tokenizer)
    short = TrainConfig(dimensions=16, steps=6, batch=32, seed=3)
    first, again = (train(tokenizer, packed, config=short).rows for _ in range(2))
    other = train(tokenizer, packed, config=TrainConfig(dimensions=16, steps=6, batch=32, seed=4)).rows
    assert np.array_equal(first, again)
    assert not np.allclose(first, other)


def test_folder_reads_the_same_in_numpy_and_sentence_transformers(lesson, tokenizer, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from sentence_transformers import SentenceTransformer

    made = train(
        tokenizer, pack([lesson[0]], tokenizer), config=TrainConfig(dimensions=32, steps=2, batch=32)
    )
    size = model.save(made, tmp_path / "m", card="# card\n")
    assert (
        size == sum(p.stat().st_size for p in (tmp_path / "m").rglob("*") if p.is_file()) < model.LIMIT_BYTES
    )
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    read = model.load(tmp_path / "m")
    texts = ["在歐洲的學術研究", "工資Ａ 12.5%", "。？", "狗", *lesson[1].questions[:20]]
    ours = read.encode(texts)
    theirs = SentenceTransformer(str(tmp_path / "m"), device="cpu").encode(texts).astype(np.float32)
    assert np.isfinite(theirs).all()
    assert np.allclose(ours, theirs, atol=3e-3)
    assert np.allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-4)
    assert np.allclose(read.rows, made.rows, atol=2e-3)


def test_a_folder_over_the_limit_is_refused_and_the_old_one_stays(tokenizer, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    rows = np.ones((tokenizer.get_vocab_size(), 8), np.float32)
    model.save(model.StaticModel(tokenizer, rows), tmp_path / "m", card="good")
    wide = np.ones((tokenizer.get_vocab_size(), 2000), np.float32)
    with pytest.raises(EmbedderError, match="30,000,000"):
        model.save(model.StaticModel(tokenizer, wide), tmp_path / "m", card="too big")
    assert model.load(tmp_path / "m").rows.shape[1] == 8
    assert (tmp_path / "m" / "README.md").read_text() == "good"


def test_damaged_and_missing_folders_say_so(tokenizer, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(EmbedderError, match=r"model\.safetensors is missing") as caught:
        model.load(tmp_path)
    assert "缺少" in caught.value.zh
    model.save(model.StaticModel(tokenizer, np.ones((7, 4), np.float32)), tmp_path / "m", card="")
    with pytest.raises(EmbedderError, match="7 rows"):
        model.load(tmp_path / "m")


def test_tokenizer_folds_traditional_width_and_case(tokenizer) -> None:  # type: ignore[no-untyped-def]
    def ids(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    assert ids("學術研究，Ａｉ１２") == ids("学术研究 ai12")
    assert ids("、。！") == [1]
    assert 0 not in ids("龙马精神 hello 2026")


def test_every_row_of_a_word_holds_its_characters(lesson, tokenizer) -> None:  # type: ignore[no-untyped-def]
    """A word never met in training still lies nearer to its own characters than to others."""
    made = train(
        tokenizer, pack([lesson[0]], tokenizer), config=TrainConfig(dimensions=128, steps=1, rate=0.0)
    )
    word = next(iter(lesson[0].pairs)).query.split("，")[0]
    assert len(tokenizer.encode(word, add_special_tokens=False).ids) == 2
    near, far = made.encode([word, word[0]]), made.encode([word, "龙"])
    assert near[0] @ near[1] > 0.3 > abs(float(far[0] @ far[1])) + 0.05


def test_synonyms_swap_only_words_that_have_one(tokenizer) -> None:  # type: ignore[no-untyped-def]
    groups = read_groups()
    assert len(groups) > 300
    assert all(len(words) > 1 for words in groups)
    counts = Counter({word: 50 for words in groups for word in words})
    own = build_tokenizer(counts, size=9500)
    swaps = Swaps(own, special=SPECIAL)
    assert len(swaps) > 800
    rng = np.random.default_rng(0)
    ids = np.array(own.encode("医生", add_special_tokens=False).ids[1:])
    other = swaps.apply(ids, share=1.0, rng=rng)
    assert own.decode(list(other)).replace(" ", "") in {"大夫", "医师"}
    assert np.array_equal(swaps.apply(ids, share=0.0, rng=rng), ids)
    assert len({p.group for p in as_source(share=1).pairs}) <= len(groups)


def test_chunks_keep_every_character_and_find_the_answer() -> None:
    text = "".join(f"第{i}句话说的是第{i}件事。" for i in range(60)) + "很" * 400
    parts = chunks(text)
    assert "".join(parts) == text
    assert max(map(len, parts)) <= 180
    start = text.index("第40件事")
    assert "第40句" in (answering_chunk(text, parts, start=start, text="第40件事") or "")
    assert answering_chunk(text, parts, start=-1, text="没有") is None


def test_words_are_counted_after_folding() -> None:
    counts = count_words(["電腦和电脑 PC"], rules=fold_rules(), weight=0.5)
    assert counts["电脑"] == 1.0
    assert counts["pc"] == 0.5


def test_measure_counts_ranks() -> None:
    scores = np.array([[0.9, 0.1, 0.0], [0.1, 0.9, 0.5], [0.3, 0.2, 0.1]], np.float32)
    result = score.measure(scores, [{0}, {2}, {1, 2}])
    assert (result.recall_1, result.recall_5) == (pytest.approx(1 / 3), 1.0)
    assert result.mrr_10 == pytest.approx((1 + 0.5 + 0.5) / 3)


def test_missing_data_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match=r"dev-v1\.1-zh_early\.json"):
        read_sources(tmp_path, seed=0)
    assert main(["train", "--data", str(tmp_path), "--out", str(tmp_path / "m"), "--quick"]) == 1
    assert "缺少训练数据" in capsys.readouterr().err
    assert main(["score", "--data", str(tmp_path), "--model", str(tmp_path / "m")]) == 1
    assert "python -m finetune.embedder train" in capsys.readouterr().err


def test_a_recipe_knows_its_data(lesson) -> None:  # type: ignore[no-untyped-def]
    source = lesson[0]
    fewer = Source(source.name, source.pairs[1:], source.texts, source.share)
    assert Recipe().digest([source]) != Recipe().digest([fewer])
    assert Recipe().digest([source]) != Recipe(tokens=1).digest([source])


def test_squad_layout_is_walked() -> None:
    layout = json.loads('{"data": [{"title": "t", "paragraphs": [{"context": "c", "qas": []}]}]}')
    assert list(paragraphs(layout)) == [("t", "c", [])]


def test_scores_replace_the_older_table_in_the_card() -> None:
    made = card.text(Recipe(), quick=False)
    table = {"lcqmc": {"dense": {"recall_1": 0.5, "recall_5": 0.75, "recall_10": 1.0, "mrr_10": 0.6}}}
    first = card.with_scores(made, table)
    table["lcqmc"]["dense"]["recall_1"] = 0.25
    again = card.with_scores(first, table)
    assert again.count("| lcqmc | dense | 0.250 | 0.750 | 1.000 | 0.600 |") == 1
    assert "0.500 | 0.750" not in again
    assert "CC BY-SA" in again and "中文说明" in again


@pytest.mark.slow
def test_quick_training_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = SHARED / "data"
    if not (data / "reading").is_dir():
        pytest.skip("the public reference sets are not on this machine")
    out = tmp_path / "model"
    arguments = ["train", "--data", str(data), "--out", str(out), "--quick", "--steps", "20"]
    assert main(arguments) == 0
    first = model.load(out).rows
    assert "vocabulary: counting words" in capsys.readouterr().out
    assert main(arguments) == 0
    assert "vocabulary: from the earlier run" in capsys.readouterr().out
    assert np.array_equal(first, model.load(out).rows)
    assert main([*arguments, "--tokens", "3000"]) == 1
    assert "3000" in capsys.readouterr().err
    asked = score.read_set("cmrc-trial", data, limit=100)
    assert _recall(model.load(out), asked) > 0.5
