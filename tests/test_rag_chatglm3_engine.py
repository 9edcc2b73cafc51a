"""The engine: what it writes is what `generate` writes, whoever else is being served."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_chatglm3 import converted

from kb.errors import GenerationError
from rag.chatglm3.engine.engine import Engine, EngineConfig
from rag.chatglm3.engine.sampling import Row, choose
from rag.chatglm3.engine.writing import Writing, loops
from rag.chatglm3.load import LoadedModel, load
from rag.generate.chatglm3 import ChatGLM3Generator
from rag.types import GenerateOptions, Generator, Message

GREEDY = GenerateOptions(max_tokens=24)
QUESTIONS = [
    "年假有几天？",
    "乾卦象征什么？请详细说明。" * 6,
    "hello",
    "刘备、关羽、张飞" * 20,
    "🐉",
    "a b c d e f g" * 9,
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return converted(tmp_path_factory.mktemp("engine") / "glm")


def add_lora(base: Path, target: Path, *, seed: int, size: float = 0.4) -> Path:
    """A LoRA adapter on every linear layer, with random weights in both halves."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import GlmForCausalLM

    from rag.chatglm3.names import NATIVE_TARGETS

    torch.manual_seed(seed)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=list(NATIVE_TARGETS), task_type="CAUSAL_LM")
    model = get_peft_model(GlmForCausalLM.from_pretrained(base), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=size)
    model.save_pretrained(target)
    return target


@pytest.fixture(scope="module")
def loaded(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    runs = tmp_path_factory.mktemp("runs")
    adapters = {
        name: add_lora(folder, runs / name, seed=seed) for seed, name in enumerate(("red", "blue"), 1)
    }
    return load(folder, adapters=adapters)


@pytest.fixture(scope="module")
def engine(loaded: LoadedModel) -> Iterator[Engine]:
    with Engine(loaded, config=EngineConfig(slots=3, chunk=32, loop_guard=False)) as engine:
        yield engine


def prompt(loaded: LoadedModel, question: str) -> list[int]:
    assert loaded.tokenizer is not None
    return loaded.tokenizer.prompt([Message("user", question)]).ids


def reference(loaded: LoadedModel, ids: list[int], *, adapter: str = "", tokens: int = 24) -> list[int]:
    """What transformers' generate writes greedily, without the end id."""
    import contextlib

    import torch

    model: Any = loaded.model
    if adapter:
        model.set_adapter(adapter)
    with torch.inference_mode(), contextlib.nullcontext() if adapter else model.disable_adapter():
        out = model.generate(
            input_ids=torch.tensor([ids], device=model.device),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long, device=model.device),
            max_new_tokens=tokens,
            do_sample=False,
        )
    written = out[0, len(ids) :].tolist()
    assert loaded.tokenizer is not None
    return written[:-1] if written[-1] in loaded.tokenizer.stop_ids else written


def test_everybody_at_once_as_if_alone(engine: Engine) -> None:
    loaded = engine.loaded
    cases = [(q, adapter) for q in QUESTIONS for adapter in ("", "red", "blue")]
    expected = [reference(loaded, prompt(loaded, q), adapter=a) for q, a in cases]
    assert len({tuple(e) for e in expected}) > len(QUESTIONS), "the adapters must make a difference"
    tickets = [
        engine.submit(prompt(loaded, q), options=GenerateOptions(max_tokens=24, adapter=a)) for q, a in cases
    ]
    for ticket, wanted in zip(tickets, expected, strict=True):
        text, last = ticket.text()
        assert ticket.ids == wanted
        assert last.finish in ("length", "stop")
        assert last.tokens == len(wanted)
        assert loaded.tokenizer is not None
        assert text == loaded.tokenizer.decode(wanted)


def test_short_prompts_are_read_side_by_side(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[tuple[int, list[int]]] = []
    with Engine(loaded, config=EngineConfig(slots=6, chunk=48, chunk_alone=160, loop_guard=False)) as engine:
        one_pass = engine._network.prefill

        def counted(pieces: list[list[int]], *, start: int, **how: Any) -> Any:
            passes.append((start, [len(piece) for piece in pieces]))
            return one_pass(pieces, start=start, **how)

        monkeypatch.setattr(engine._network, "prefill", counted)
        for turn in range(
            2
        ):  # the second time every prompt begins in a slot that knows it: all but the last id
            cases = list(zip(QUESTIONS, ("", "red", "blue", "red", "", "blue"), strict=True))
            tickets = engine.submit_all(
                [
                    (prompt(loaded, q + "？" * turn), GenerateOptions(max_tokens=24, adapter=a))
                    for q, a in cases
                ]
            )
            for ticket, (q, a) in zip(tickets, cases, strict=True):
                ticket.text()
                assert ticket.ids == reference(loaded, prompt(loaded, q + "？" * turn), adapter=a)
    sizes = [lengths for _, lengths in passes]
    assert max(map(len, sizes)) >= 3, "several prompts in one pass"
    for lengths in sizes:
        assert max(lengths) * len(lengths) <= min(160, 2 * sum(lengths))
    assert any(start > 0 and len(lengths) == 1 for start, lengths in passes), "pieces of a long one"


def test_a_follow_up_reads_only_what_is_new(engine: Engine) -> None:
    loaded = engine.loaded
    assert loaded.tokenizer is not None
    first = [Message("user", "净水机的滤芯多久换一次？" * 8)]
    text, _ = engine.submit(loaded.tokenizer.prompt(first).ids, options=GREEDY).text()
    follow = [*first, Message("assistant", text), Message("user", "那质保期呢？")]
    ids = loaded.tokenizer.prompt(follow).ids
    before = engine.prompt_tokens_computed
    ticket = engine.submit(ids, options=GREEDY)
    ticket.text()
    assert engine.prompt_tokens_computed - before < len(ids) - 40
    assert ticket.ids == reference(loaded, ids)
    before = engine.prompt_tokens_computed
    engine.submit(ids, options=GenerateOptions(max_tokens=4, adapter="red")).text()
    assert engine.prompt_tokens_computed - before > len(ids) - 9, "another adapter's cache is not used"


def test_a_shared_beginning_is_copied_from_a_busy_slot(loaded: LoadedModel) -> None:
    start = "资料：" + "入职满一年的员工每年有五天带薪年假。" * 12
    with Engine(loaded, config=EngineConfig(slots=2, loop_guard=False)) as engine:
        first = engine.submit(prompt(loaded, start + "甲"), options=GenerateOptions(max_tokens=400))
        next(iter(first))
        ids = prompt(loaded, start + "乙")
        second = engine.submit(ids, options=GREEDY)
        second.text()
        assert engine.prompt_tokens_computed < len(ids) + 60
        first.cancel()
    assert second.ids == reference(loaded, ids)


def test_stopping_within_one_token(engine: Engine) -> None:
    cancel = threading.Event()
    ids = prompt(engine.loaded, QUESTIONS[1])
    ticket = engine.submit(ids, options=GenerateOptions(max_tokens=500), cancel=cancel)
    pieces = iter(ticket)
    next(pieces)
    cancel.set()
    written = len(ticket.ids)
    last = list(pieces)[-1]
    assert last.finish == "stopped"
    assert last.tokens <= written + 1


def test_leaving_the_loop_ends_the_request(engine: Engine) -> None:
    ticket = engine.submit(prompt(engine.loaded, QUESTIONS[3]), options=GenerateOptions(max_tokens=600))
    for _ in ticket:
        break
    deadline = time.monotonic() + 5
    while engine._active and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not engine._active


def test_limits_are_told(engine: Engine) -> None:
    with pytest.raises(GenerationError, match=r"prompt has 2000 tokens.*may have 1024"):
        engine.submit([5] * 2000)
    with pytest.raises(GenerationError, match="no adapter"):
        engine.submit([5], options=GenerateOptions(adapter="green"))
    _, last = engine.submit([5] * 1020, options=GenerateOptions(max_tokens=100)).text()
    assert (last.finish, last.tokens) in (("length", 4), ("stop", last.tokens))


def test_the_same_seed_writes_the_same_in_any_company(engine: Engine) -> None:
    ids = prompt(engine.loaded, "你好")
    hot = GenerateOptions(max_tokens=20, temperature=1.5, top_p=0.9, top_k=50, repetition_penalty=1.2, seed=7)
    alone = engine.submit(ids, options=hot)
    alone.text()
    crowd = [engine.submit(prompt(engine.loaded, q), options=GREEDY) for q in QUESTIONS[:2]]
    again = engine.submit(ids, options=hot)
    again.text()
    other = engine.submit(ids, options=GenerateOptions(max_tokens=20, temperature=1.5, seed=8))
    other.text()
    assert alone.ids == again.ids != other.ids
    assert [t.text()[1].finish for t in crowd]


def test_a_step_begun_before_the_last_was_looked_at(loaded: LoadedModel) -> None:
    """As on a GPU: the engine runs one step ahead of what it has seen."""
    cases = [(q, a) for q in QUESTIONS for a in ("", "red")]
    with Engine(loaded, config=EngineConfig(slots=3, chunk=32, loop_guard=False)) as engine:
        engine._ahead = 1
        for _ in range(2):  # the second time from what the slots kept
            tickets = [
                engine.submit(prompt(loaded, q), options=GenerateOptions(max_tokens=24, adapter=a))
                for q, a in cases
            ]
            for ticket, (question, adapter) in zip(tickets, cases, strict=True):
                ticket.text()
                assert ticket.ids == reference(loaded, prompt(loaded, question), adapter=adapter)
        hot = GenerateOptions(max_tokens=20, temperature=1.5, repetition_penalty=1.2, seed=7)
        tickets = [engine.submit(prompt(loaded, QUESTIONS[0]), options=hot) for _ in range(2)]
        for ticket in tickets:
            ticket.text()
    with Engine(loaded, config=EngineConfig(slots=1, loop_guard=False)) as engine:
        alone = engine.submit(prompt(loaded, QUESTIONS[0]), options=hot)
        alone.text()
    assert tickets[0].ids == tickets[1].ids == alone.ids


def test_an_error_reaches_who_asked_and_the_engine_goes_on(loaded: LoadedModel) -> None:
    with Engine(loaded) as engine:
        broken = engine.submit([10**9], options=GREEDY)
        with pytest.raises(GenerationError, match="Generating failed: IndexError"):
            broken.text()
        ids = prompt(loaded, "你好")
        ticket = engine.submit(ids, options=GREEDY)
        ticket.text()
        assert ticket.ids == reference(loaded, ids)
    with pytest.raises(GenerationError, match="closed"):
        engine.submit(ids)


def test_generator_protocol(loaded: LoadedModel) -> None:
    with ChatGLM3Generator(loaded, adapter="blue") as generator:
        assert isinstance(generator, Generator)
        assert generator.name == "glm (fp32) + blue"
        assert generator.context_tokens == 1024
        assert generator.count_tokens("你好") == len(generator.prompt_ids([Message("user", "你好")])) - 6
        pieces = list(generator.stream([Message("user", "你好")], options=GREEDY))
        with pytest.raises(GenerationError, match=r"no adapter 'green' loaded. Loaded: red, blue"):
            generator.prompt_ids([Message("user", "你好")], adapter="green")  # a server then says 400
    assert pieces[-1].finish is not None
    ids = reference(loaded, prompt(loaded, "你好"), adapter="blue")
    assert loaded.tokenizer is not None
    assert "".join(p.text for p in pieces) == loaded.tokenizer.decode(ids)


def test_the_captured_layout_writes_the_same(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fixed buffers, rounded lengths and idle rows, as a CUDA graph has them; only the recording itself is left out."""
    import torch

    from rag.chatglm3.engine.graph import Captured

    def record(self: Any, network: Any, pool: Any) -> Any:
        self._program.run()
        return self._program.run

    monkeypatch.setattr(Captured, "_record", record)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    with Engine(loaded, config=EngineConfig(slots=4, loop_guard=False)) as engine:
        engine._stepper._capture = True
        cases = [(q, adapter) for q in QUESTIONS for adapter in ("", "red", "blue")]
        expected = [reference(loaded, prompt(loaded, q), adapter=a) for q, a in cases]
        first = engine.submit(prompt(loaded, QUESTIONS[0]), options=GREEDY)
        first.text()
        assert [key[1] for key in engine._stepper._graphs] == [1], "one person: one row"
        tickets = [
            engine.submit(prompt(loaded, q), options=GenerateOptions(max_tokens=24, adapter=a))
            for q, a in cases
        ]
        for ticket in tickets:
            ticket.text()
        kept = prompt(loaded, QUESTIONS[0])
        before = engine.prompt_tokens_computed
        again = engine.submit(kept, options=GREEDY)
        again.text()
        assert engine.prompt_tokens_computed - before <= len(kept)
        widths = {key[1] for key in engine._stepper._graphs}
    assert widths == {1, 4}
    assert [t.ids for t in tickets] == expected
    assert first.ids == again.ids == expected[0], "idle rows left the kept beginnings as they were"


# ---------------------------------------------------------------- parts


def writing(
    loaded: LoadedModel, *, stop: tuple[str, ...] = (), limit: int = 999, guard: bool = True
) -> Writing:
    assert loaded.tokenizer is not None
    return Writing(loaded.tokenizer, options=GenerateOptions(stop=stop), limit=limit, guard=guard)


def feed(writer: Writing, ids: list[int]) -> tuple[list[str], str | None]:
    pieces = []
    for token in ids:
        pieces.append(writer.feed(token))
        if pieces[-1].finish:
            break
    return [p.text for p in pieces], pieces[-1].finish


def test_the_header_of_a_turn_is_no_part_of_the_answer(loaded: LoadedModel) -> None:
    tokenizer = loaded.tokenizer
    assert tokenizer is not None
    ids = [*tokenizer.header, *tokenizer.encode("年假有五天。🐉"), 2]
    texts, finish = feed(writing(loaded), ids)
    assert ("".join(texts), finish) == ("年假有五天。🐉", "stop")
    assert not any("\ufffd" in text for text in texts)
    cut, finish = feed(writing(loaded, limit=len(ids) - 3), ids)  # ends inside the dragon
    assert finish == "length"
    assert "".join(cut).rstrip("\ufffd") == "年假有五天。"


def test_stop_strings_never_show(loaded: LoadedModel) -> None:
    tokenizer = loaded.tokenizer
    assert tokenizer is not None
    ids = [*tokenizer.header, *tokenizer.encode("有五天。用户：还有呢？")]
    texts, finish = feed(writing(loaded, stop=("用户：", "User:")), ids)
    assert ("".join(texts), finish) == ("有五天。", "stop")
    ids = [*tokenizer.header, *tokenizer.encode("有五天。用户"), 2]
    texts, finish = feed(writing(loaded, stop=("用户：",)), ids)
    assert "".join(texts) == "有五天。用户", "a beginning of a stop string that did not come is given back"


def test_the_loop_guard(loaded: LoadedModel) -> None:
    tokenizer = loaded.tokenizer
    assert tokenizer is not None
    unit = tokenizer.encode("年假有五天，")
    texts, finish = feed(writing(loaded), [*tokenizer.encode("回答："), *unit * 40])
    assert finish == "loop"
    assert "".join(texts).count("年假有五天") < 16
    assert feed(writing(loaded, guard=False), unit * 40)[1] is None
    table = tokenizer.encode("| 甲 | 1 |\n| 乙 | 2 |\n| 丙 | 3 |\n" + "-" * 20)
    assert feed(writing(loaded), table)[1] is None
    assert loops([1] * 48)
    assert not loops([1] * 47)
    assert not loops(list(range(200)))


def test_sampling_settings() -> None:
    import torch

    logits = torch.tensor([[1.0, 4.0, 3.0, 2.0]])

    def pick(chance: float, written: tuple[int, ...] = (), **settings: Any) -> int:
        row = Row(GenerateOptions(**settings), written, chance)
        return int(choose(logits.clone(), rows=[row])[0])

    assert pick(0.99) == 1
    assert pick(0.99, temperature=1.0, top_k=1) == 1
    assert pick(0.99, temperature=1.0, top_k=2) == 2
    assert pick(0.99, temperature=1.0, top_p=0.3) == 1
    assert pick(0.999, temperature=1.0) == 0
    assert pick(0.0, temperature=1.0) == 1
    assert pick(0.5, written=(1,), repetition_penalty=2.0) == 2
    most = 1 - 2**-40  # 1.0 in float32
    assert [pick(most, temperature=1.0, top_k=2), pick(most, temperature=1.0, top_p=0.3)] == [2, 1]
    counts = [pick(i / 1000, temperature=1.0) for i in range(1000)]
    share = torch.tensor([counts.count(i) / 1000 for i in range(4)])
    assert (share - logits[0].softmax(-1)).abs().max() < 0.005
