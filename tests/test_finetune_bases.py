"""Other base models, trained and answering: three real architectures in small, and what they are refused for."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune import events, run
from finetune.bases import chat_of, settled, shape_of, target_names, verified
from finetune.config import RunConfig, from_values
from finetune.data.types import Conversation, Turn
from finetune.encode import EncodeReport, Limits, encode_conversation
from finetune.methods import attach, open_base
from finetune.plan import make_plan
from finetune.train import RunResult, train
from kb.errors import GenerationError, ModelError, SettingsError
from rag.chatglm3.load import LoadConfig
from rag.generate.local import LocalGenerator
from rag.models import load_other, read_other
from rag.types import GenerateOptions, Message, Piece
from tests.tiny_bases import GLM4, tiny_base
from tests.tiny_training import FACTS, tiny_model, write_facts
from ui.settings import GeneratorSettings

KINDS = ("llama", "qwen3", "glm4")
QUESTION = "年假有几天？"
TARGETS = {
    "llama": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    "qwen3": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    "glm4": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases")
    for kind in KINDS:
        tiny_base(folder / kind, kind)
    tiny_model(folder / "chatglm")
    write_facts(folder / "facts.json")
    return folder


def config_of(place: Path, kind: str, **values: Any) -> RunConfig:
    return from_values(
        {
            "name": kind,
            "output_dir": str(place / "runs"),
            "model_name_or_path": str(place / kind),
            "dataset": str(place / "facts.json"),
            "finetuning_type": "lora",
            "device": "cpu",
            "per_device_train_batch_size": 12,
            "gradient_accumulation_steps": 1,
            "learning_rate": 1e-2,
            "max_steps": 24,
            "sample_tokens": 24,
            **values,
        }
    )


_trained: dict[tuple[str, str], RunResult] = {}


def trained(place: Path, kind: str, template: str = "auto") -> RunResult:
    """One run for each base and template, shared by the tests."""
    if (kind, template) not in _trained:
        more = {"max_steps": 50, "lora_rank": 64, "learning_rate": 5e-3} if kind == "chatglm" else {}
        config = config_of(place, kind, template=template, **more)
        _trained[kind, template] = train(run.create(config))
    return _trained[kind, template]


def adapter_of(place: Path, kind: str, template: str = "auto") -> Path:
    found = trained(place, kind, template).adapter
    assert found is not None
    return found


def said(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def ask(generator: Any, question: str, **options: Any) -> list[Piece]:
    wanted = GenerateOptions(**{"max_tokens": 40, **options})
    return list(generator.stream([Message("user", question)], options=wanted))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_and_answers_with_what_it_learned(place: Path, kind: str) -> None:
    adapter = adapter_of(place, kind)
    about = json.loads((adapter / "train.json").read_text(encoding="utf-8"))
    assert about["template"].startswith("own:") and about["config"]["template"] == "auto"
    assert len(about["base_hash"]) == 64 and about["trainable"] > 0
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert set(config["target_modules"]) == TARGETS[kind]
    with LocalGenerator(load_other(place / kind, adapters={"facts": adapter})) as generator:
        right = [said(ask(generator, q, adapter="facts")).strip() == a for q, a in FACTS.items()]
        assert sum(right) >= 11, "it says what it was taught"
        assert said(ask(generator, QUESTION)) != FACTS[QUESTION], "the base alone does not"
        last = ask(generator, QUESTION, adapter="facts")[-1]
        assert last.finish == "stop" and last.tokens < 40, "it has learned to stop"


@pytest.mark.slow
def test_stopping_and_taking_turns(place: Path) -> None:
    adapter = adapter_of(place, "qwen3")
    whole = FACTS[QUESTION]
    with LocalGenerator(load_other(place / "qwen3", adapters={"facts": adapter}), adapter="facts") as one:
        assert one.name == "qwen3 (fp32) + facts" and one.count_tokens("五天") == 2
        short = ask(one, QUESTION, max_tokens=3)
        assert said(short) == whole[:3] and short[-1].finish == "length"
        cut = ask(one, QUESTION, stop=("有五",))
        assert said(cut) == whole[: whole.index("有五")] and cut[-1].finish == "stop"
        results: dict[str, str] = {}
        threads = [
            threading.Thread(target=lambda q=q: results.update({q: said(ask(one, q))}))
            for q in list(FACTS)[:3]
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == {q: FACTS[q] for q in results} and len(results) == 3
        with pytest.raises(GenerationError, match="no adapter 'other'"):
            ask(one, QUESTION, adapter="other")
        with pytest.raises(GenerationError, match="may have 1024"):
            ask(one, "年" * 1100)


def test_cancel_within_a_token_seeds_and_loops(place: Path) -> None:
    """The untrained model says nothing of sense, but it can be stopped and repeats itself only so long."""
    with LocalGenerator(load_other(place / "qwen3")) as one:
        cancel = threading.Event()
        seen: list[Piece] = []
        options = GenerateOptions(max_tokens=300, temperature=1.0, seed=3)
        for piece in one.stream([Message("user", "年")], options=options, cancel=cancel):
            seen.append(piece)
            if piece.tokens >= 3:
                cancel.set()
        assert seen[-1].finish == "stopped" and seen[-1].tokens <= 6
        hot = [said(ask(one, "年", temperature=1.5, seed=seed, max_tokens=12)) for seed in (1, 1, 2)]
        assert hot[0] == hot[1] != hot[2]
        for name, weight in one.loaded.model.named_parameters():
            if "o_proj" in name or "down_proj" in name:
                weight.data.zero_()  # each token depends on the one before alone: it must go in circles
        looping = ask(one, "年", max_tokens=900)
        assert looping[-1].finish == "loop" and looping[-1].tokens < 900
    assert ask(one, "年")[-1].finish == "stopped", "closed"


@pytest.mark.parametrize("kind", KINDS)
def test_packed_rows_give_the_gradients_of_padded_ones(place: Path, kind: str) -> None:
    from finetune.forward import loss_sum
    from finetune.pack import RowShape, packed_batches, padded_batches
    from finetune.prepare import prepare

    config = config_of(place, kind)
    documents = list(prepare(config, tokenizer=chat_of(config)).train)[:5]
    found = []
    for packed in (True, False):
        done = config if packed else replace(config, train=replace(config.train, packing=False))
        trainee = attach(open_base(done, folder=place / kind, device="cpu"), config=done)
        assert verified(trainee, config=done) is None
        rows = (
            packed_batches(documents, shape=RowShape(1000, 0, 100))
            if packed
            else padded_batches(documents, rows=5)
        )
        assert len(rows) == 1
        loss = loss_sum(trainee, rows[0])
        loss.backward()  # type: ignore[no-untyped-call]
        grads = {n: p.grad for n, p in trainee.trainable().items() if p.grad is not None}
        found.append((float(loss.detach()), grads))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for name, grad in found[0][1].items():
        torch.testing.assert_close(grad, found[1][1][name], rtol=1e-3, atol=1e-4)


def test_a_sliding_window_is_not_packed_and_says_so(tmp_path: Path) -> None:
    layers = ["sliding_attention", "full_attention"]
    tiny_base(tmp_path / "qwen3", "qwen3", use_sliding_window=True, sliding_window=8, layer_types=layers)
    write_facts(tmp_path / "facts.json")
    config = config_of(tmp_path, "qwen3", max_steps=1)
    changed, note = settled(config)
    assert not changed.train.packing and note is not None and "sliding window" in note[1]
    assert not make_plan(config).layout.packed
    result = train(run.create(config))
    spoken = [e["en"] for e in events.read(result.folder) if e["event"] == "say"]
    assert any("padded rows are used" in line for line in spoken)
    adapter = result.adapter
    assert adapter is not None and json.loads((adapter / "train.json").read_text())["trainable"] > 0


def test_what_turns_out_not_to_pack_is_trained_in_padded_rows(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If documents leak into each other after all (here: attention without their borders), it is seen before step 1."""
    from finetune import attention

    def leaking(module: Any, query: Any, key: Any, value: Any, mask: Any, **kwargs: Any) -> Any:
        kwargs["cu_seqlens"] = torch.tensor([0, query.shape[2]], dtype=torch.int32)
        return attention.packed_attention(module, query, key, value, mask, **kwargs)

    from transformers import AttentionInterface

    attention.register()
    monkeypatch.setitem(AttentionInterface._global_mapping, attention.NAME, leaking)
    result = train(run.create(config_of(place, "llama", max_steps=1, lora_rank=2)))
    spoken = [e["en"] for e in events.read(result.folder) if e["event"] == "say"]
    assert any("cannot share a row in" in line for line in spoken)


def test_logits_made_in_another_way_are_not_trained(tmp_path: Path) -> None:
    from transformers import GraniteConfig, GraniteForCausalLM

    from tests.tiny_bases import write_tokenizer

    folder = write_tokenizer(tmp_path / "granite", "qwen3")
    config = GraniteConfig(
        vocab_size=448, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, logits_scaling=8.0, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    GraniteForCausalLM(config).save_pretrained(folder)
    wanted = config_of(tmp_path, "granite")
    trainee = attach(open_base(wanted, folder=folder, device="cpu"), config=wanted)
    with pytest.raises(ModelError, match="It can answer, but not be trained"):
        verified(trainee, config=wanted)
    with LocalGenerator(load_other(folder)) as generator:
        assert ask(generator, "年", max_tokens=3)[-1].finish is not None


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_and_targets_are_the_models_own(place: Path, kind: str) -> None:
    from finetune.memory import linear_sizes, trainable_count
    from rag.chatglm3.memory import weight_bytes

    shape = read_other(place / kind)
    assert shape_of(place / kind) == shape and shape.kind == kind and shape.packs
    assert set(linear_sizes(shape)) == TARGETS[kind]
    for targets in ("all", "q_proj,down_proj"):
        config = config_of(place, kind, lora_target=targets)
        loaded = open_base(config, folder=place / kind, device="cpu")
        real = sum(p.numel() for p in loaded.model.parameters())
        assert shape.parameters == real
        estimate = weight_bytes(shape, dtype="float32", quantise="none")
        assert estimate == pytest.approx(4 * real, rel=0.01)
        trainee = attach(loaded, config=config)
        assert sum(p.numel() for p in trainee.trainable().values()) == trainable_count(shape, config)
        assert make_plan(config).trainable == trainable_count(shape, config)
    with pytest.raises(SettingsError, match=r"'query_key_value' is unknown.*q_proj"):
        target_names("query_key_value", shape=shape)


def test_freeze_and_full_write_a_folder_that_answers(place: Path) -> None:
    for method, rate in (("freeze", 1e-3), ("full", 1e-3)):
        config = config_of(place, "llama", finetuning_type=method, max_steps=2, learning_rate=rate)
        result = train(run.create(replace(config, name=method)))
        assert result.adapter is not None and result.adapter.name == "model"
        with LocalGenerator(load_other(result.adapter)) as generator:
            assert ask(generator, QUESTION, max_tokens=3)[-1].tokens >= 1


def test_only_with_the_template_it_was_trained_with(place: Path) -> None:
    from ui.speakers import open_model

    adapter = adapter_of(place, "chatglm", "default")
    about = json.loads((adapter / "train.json").read_text(encoding="utf-8"))
    assert about["template"] == "default"
    wanted = GeneratorSettings(kind="chatglm3", model=str(place / "chatglm"), context_tokens=512)
    generator = open_model(place / "chatglm", {"facts": adapter}, wanted, default="facts")
    try:
        ids = generator.prompt_ids(
            [Message("user", QUESTION)]
        )  # the adapter's own template, without being asked
        assert "Assistant:" in chat_of(config_of(place, "chatglm")).decode(ids)
        assert said(ask(generator, QUESTION)).strip() == FACTS[QUESTION]
    finally:
        generator.close()
    with pytest.raises(ModelError, match="--template default") as caught:
        open_model(place / "chatglm", {"facts": adapter}, replace(wanted, template="chatglm3"))
    assert "default" in caught.value.zh
    other = adapter_of(place, "qwen3")
    with pytest.raises(ModelError, match="different chat templates"):
        open_model(place / "qwen3", {"a": adapter, "b": other}, wanted)
    with pytest.raises(ModelError, match="trained with the chat template 'auto'"):
        open_model(place / "qwen3", {"b": other}, replace(wanted, template="vicuna"))


def test_dora_on_chatglm_answers_unmerged_and_says_that_it_is_slower(place: Path) -> None:
    from rag.types import GenerateOptions
    from ui.speakers import open_model

    config = config_of(place, "chatglm", use_dora=True, max_steps=2, lora_rank=4)
    result = train(run.create(replace(config, name="dora")))
    assert result.adapter is not None
    wanted = GeneratorSettings(kind="chatglm3", model=str(place / "chatglm"), context_tokens=512)
    generator = open_model(place / "chatglm", {"dora": result.adapter}, wanted, default="dora")
    try:
        assert isinstance(generator, LocalGenerator) and generator.note is not None
        assert "slower" in generator.note[1] and "较慢" in generator.note[0]
        options = GenerateOptions(max_tokens=5)
        assert list(generator.stream([Message("user", QUESTION)], options=options))[-1].tokens >= 1
    finally:
        generator.close()


def test_another_version_of_the_own_template_is_refused(place: Path) -> None:
    adapter = adapter_of(place, "qwen3")
    file = place / "qwen3" / "chat_template.jinja"
    before = file.read_text(encoding="utf-8")
    try:
        file.write_text(before + " ", encoding="utf-8")
        with pytest.raises(ModelError, match="another version of the model's own chat template"):
            LocalGenerator(load_other(place / "qwen3", adapters={"facts": adapter}))
    finally:
        file.write_text(before, encoding="utf-8")


def test_an_adapter_of_another_base_is_refused(place: Path) -> None:
    with pytest.raises(ModelError, match="trained on another base"):
        load_other(place / "llama", adapters={"facts": adapter_of(place, "qwen3")})


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("internlm2", "convert2llama"),
        ("chatglm", "zhiwen models convert"),
        ("qwen", "Qwen1.5"),
        ("madeup", "without code from the folder"),
    ],
)
def test_code_that_comes_with_a_model_is_never_run(tmp_path: Path, kind: str, words: str) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": kind, "auto_map": {"AutoModelForCausalLM": "modeling.Evil"}})
    )
    (tmp_path / "modeling.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ModelError, match=words) as caught:
        read_other(tmp_path)
    assert "never run" in caught.value.message and "从不运行" in caught.value.zh


@pytest.mark.parametrize(
    ("values", "words"), [({"stage": "pt"}, ""), ({"finetuning_type": "ptuning"}, "ptuning")]
)
def test_what_other_bases_cannot_do(place: Path, values: dict[str, str], words: str) -> None:
    config = config_of(place, "llama", **values)
    if not words:
        assert settled(config) == (config, None)
        return
    with pytest.raises(SettingsError, match=f"{words} works on ChatGLM bases only"):
        settled(config)


def test_merged_it_answers_the_same(place: Path) -> None:
    adapter = adapter_of(place, "qwen3")
    loaded = load_other(place / "qwen3", adapters={"facts": adapter}, config=LoadConfig(merge="facts"))
    with LocalGenerator(loaded) as generator:
        assert generator.name == "qwen3 (fp32) + facts"
        assert said(ask(generator, QUESTION)) == FACTS[QUESTION]


def test_long_conversations_lose_their_oldest_rounds_and_are_laid_out_anew(place: Path) -> None:
    """What stays is exactly the conversation that begins later, numbers of rounds included."""
    turns = [Turn("user", QUESTION), Turn("assistant", "五天。")] * 5
    for kind, template in (("qwen3", "auto"), ("glm4", "chatglm2"), ("llama", "alpaca")):
        chat = chat_of(config_of(place, kind, template=template))

        def encoded(count: int, cutoff: int, chat: Any = chat) -> tuple[list[int], EncodeReport]:
            report = EncodeReport()
            example = Conversation(tuple(turns[-2 * count :]), system="你是客服。")
            [one] = encode_conversation(example, tokenizer=chat, limits=Limits(cutoff), report=report)
            return one.ids.tolist(), report

        two, _ = encoded(2, 4000)
        cut, report = encoded(5, len(two) + 3)
        assert cut == two and report.turns_left_out == 3 and report.shortened == 1


def test_plain_text_begins_and_ends_as_the_tokenizer_has_it(place: Path) -> None:
    from finetune.data.types import PlainText
    from finetune.encode import encode_all

    for kind, start, end in (("qwen3", [], 2), ("glm4", [1, 2], 0)):
        chat = chat_of(config_of(place, kind))
        [one], _ = encode_all([PlainText("年假五天")], stage="pt", tokenizer=chat, limits=Limits(100))
        assert one.ids.tolist() == [*start, *chat.encode("年假五天"), end]
        assert (one.labels[: len(start)] == -100).all() and one.labels[-1] == end


def test_glm4_template_is_the_glm4_one(place: Path) -> None:
    assert (place / "glm4" / "chat_template.jinja").read_text(encoding="utf-8") == GLM4
