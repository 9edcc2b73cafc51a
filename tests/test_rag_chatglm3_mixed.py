"""The engine under everything at once: shared beginnings, several adapters, limits, stop strings, people who leave.

Each answer must be what the same request gets alone; an answer that was stopped must be its beginning.
"""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from test_rag_chatglm3_engine import add_lora
from tiny_chatglm3 import converted

from rag.chatglm3.engine.engine import Engine, EngineConfig
from rag.chatglm3.import_adapter import prefix_adapter
from rag.chatglm3.load import LoadedModel, load
from rag.chatglm3.shape import read_native
from rag.types import GenerateOptions

CONTEXT = 256
VIRTUAL = {"prefix": 5, "long": 16}


def add_prefix(base: Path, folder: Path, *, tokens: int) -> Path:
    import json

    import torch
    from safetensors.torch import save_file

    shape = read_native(base)
    random_numbers = torch.Generator().manual_seed(tokens)
    width = shape.layers * 2 * shape.groups * shape.head_dim
    numbers = torch.randn(tokens, width, generator=random_numbers) * 0.7
    config, tensors = prefix_adapter({"embedding.weight": numbers}, shape=shape)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = tmp_path_factory.mktemp("mixed")
    base = converted(folder / "glm", seq_length=CONTEXT)
    adapters = {name: add_prefix(base, folder / name, tokens=n) for name, n in VIRTUAL.items()}
    return load(base, adapters={"red": add_lora(base, folder / "red", seed=1), **adapters})


def requests(seed: int, count: int) -> list[tuple[list[int], GenerateOptions]]:
    chance = random.Random(seed)
    begins = [[chance.randrange(5, 620) for _ in range(n)] for n in (3, 20, 90, 200)]
    made = []
    for _ in range(count):
        adapter = chance.choice(["", "", "red", "prefix", "long"])
        begin = chance.choice(begins)
        ids = begin[: chance.randint(1, len(begin))]
        ids += [chance.randrange(5, 620) for _ in range(chance.choice([0, 0, 1, 30, 400]))]
        options = GenerateOptions(
            max_tokens=chance.choice([1, 2, 20, 400]),
            temperature=chance.choice([0.0, 0.0, 1.0]),
            seed=3,
            stop=chance.choice([(), (), ("e",), ("的", "an")]),
            repetition_penalty=chance.choice([1.0, 1.0, 1.3]),
            adapter=adapter,
        )
        made.append((ids[: CONTEXT - VIRTUAL.get(adapter, 0) - chance.choice([1, 5])], options))
    return made


@pytest.mark.parametrize(
    ("seed", "slots", "chunk", "ahead"), [(1, 1, 512, 1), (2, 3, 7, 0), (3, 5, 64, 1), (4, 8, 512, 1)]
)
def test_as_if_alone(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch, seed: int, slots: int, chunk: int, ahead: int
) -> None:
    monkeypatch.setattr("rag.chatglm3.engine.engine.WORTH_COPYING", 3)
    given: list[Any] = []

    def ask(engine: Engine, ids: list[int], options: GenerateOptions, leave_after: int) -> None:
        cancel, text, pieces = threading.Event(), "", 0
        ticket = engine.submit(ids, options=options, cancel=cancel)
        for piece in ticket:
            text, pieces = text + piece.text, pieces + 1
            if pieces == leave_after:
                cancel.set()
        given.append((ids, options, ticket.ids, text, piece.finish))

    config = EngineConfig(slots=slots, chunk=chunk, chunk_alone=4 * chunk)
    with Engine(loaded, config=config) as engine:
        engine._ahead = ahead
        chance = random.Random(seed)
        threads = [
            threading.Thread(target=ask, args=(engine, *request, chance.choice([0, 0, 0, 1, 5])))
            for request in requests(seed, 24)
        ]
        for thread in threads:
            thread.start()
            time.sleep(chance.choice([0, 0, 0.01, 0.03]))
        for thread in threads:
            thread.join(60)
    assert len(given) == len(threads)
    with Engine(loaded, config=EngineConfig(slots=1)) as engine:
        for ids, options, written, text, finish in given:
            engine.refresh()  # nothing is kept from the request before
            alone = engine.submit(ids, options=options)
            wanted, last = alone.text()
            if finish == "stopped":
                assert written == alone.ids[: len(written)]
            else:
                assert (written, text, finish) == (alone.ids, wanted, last.finish)
