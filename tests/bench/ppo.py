"""Where the time of a PPO step goes at ChatGLM3-6B's shape, and generation against rag's engine alone in the same run.

    python -m tests.bench.ppo --out tests/bench/results/ppo.json      # one GPU, about 2 minutes
    python -m tests.bench.ppo --tiny --out /tmp/ppo.json              # any machine: does it run?

Random weights in nf4, LoRA r=16 on all linear layers; the policy begins as a copy of one adapter (which stays beside it as
the reference), another with its score head is the reward. No id ends an answer, so all have the same length. The engine
alone loads the same base with the same adapter from its folder and answers the same prompts, sampled the same way.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "bench")]

WANTED = 0.8
"""Generation in PPO against rag's own speed (issue 7)."""


def make_reward(base: Path, adapter: Path, work: Path) -> Path:
    """An rm adapter: the LoRA weights of `adapter` with other numbers, and a head."""
    import torch
    from safetensors.torch import load_file, save_file

    from rag.chatglm3.shape import read_native

    folder = work / f"{base.name}-reward"
    folder.mkdir(exist_ok=True)
    tensors = {k: v.flip(0).contiguous() for k, v in load_file(adapter / "adapter_model.safetensors").items()}
    tensors["base_model.model.score.weight"] = torch.randn(1, read_native(base).hidden) * 0.02
    save_file(tensors, folder / "adapter_model.safetensors")
    about = json.loads((adapter / "adapter_config.json").read_text())
    about |= {"task_type": "SEQ_CLS", "modules_to_save": ["score"]}
    (folder / "adapter_config.json").write_text(json.dumps(about))
    return folder


def options_of(base: Path, adapter: Path, reward: Path, args: argparse.Namespace) -> dict[str, Any]:
    """As a config file would say it."""
    return {
        "model_name_or_path": str(base), "dataset": "-", "stage": "ppo", "finetuning_type": "qlora", "lora_rank": 16,
        "adapter": str(adapter), "reward_model": str(reward), "max_steps": args.steps, "learning_rate": 1e-5,
        "per_device_train_batch_size": args.prompts, "gradient_accumulation_steps": 1, "lr_scheduler_type": "constant",
        "ppo_max_new_tokens": args.tokens, "ppo_most_moved": 0.0,
    }  # fmt: skip


def prompts_of(args: argparse.Namespace, vocabulary: int) -> list[list[int]]:
    """Random ids."""
    from decode import ids_of

    return [ids_of(args.length, 50 + i, min(64_000, vocabulary)) for i in range(args.prompts)]


def alone(base: Path, adapter: Path, args: argparse.Namespace) -> dict[str, Any]:
    """rag's engine: every prompt asked from a thread of its own, sampled and greedy; the second round counts."""
    from decode import endless

    from rag.chatglm3.engine.engine import Engine, EngineConfig
    from rag.chatglm3.load import LoadConfig, load
    from rag.types import GenerateOptions

    loaded = load(base, adapters={"lora": adapter}, config=LoadConfig(quantise="nf4"))
    prompts, out = prompts_of(args, loaded.shape.vocabulary), {}
    config = EngineConfig(slots=args.prompts, context=args.length + args.tokens, loop_guard=False)
    with endless(loaded), Engine(loaded, config=config) as engine:
        engine.ready.wait(300)
        out["through"] = engine.path
        for name, heat in (("sampled", 1.0), ("greedy", 0.0)):
            for turn in range(2):

                def ask(number: int, heat: float = heat, turn: int = turn) -> None:
                    how = GenerateOptions(
                        max_tokens=args.tokens, temperature=heat, seed=7 * turn + number, adapter="lora"
                    )
                    prompt = [*prompts[number][turn + 1 :], *prompts[number][: turn + 1]]
                    engine.submit(prompt, options=how).text()

                threads = [threading.Thread(target=ask, args=(n,)) for n in range(len(prompts))]
                begin = time.perf_counter()
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                out[f"tokens/s, {name}"] = args.prompts * args.tokens / (time.perf_counter() - begin)
    return out


def stepping(base: Path, adapter: Path, reward: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Our loop: all roles on one base."""
    import torch
    from decode import endless

    from finetune.config import from_values
    from finetune.encode import EncodeReport
    from finetune.events import EventLog
    from finetune.methods import attach, checkpoint_layers, open_base
    from finetune.plan import make_plan
    from finetune.ppo.loop import Loop
    from finetune.ppo.policy import Policy
    from finetune.ppo.prompts import document
    from finetune.ppo.reward import AdapterReward
    from finetune.ppo.rollout import Sampler
    from finetune.prepare import Prepared
    from finetune.start import add_reference, with_start
    from rag.chatglm3.shape import read_native

    config = with_start(from_values(options_of(base, adapter, reward, args)))
    prompts = [document(p, ()) for p in prompts_of(args, read_native(base).vocabulary)]
    plan = make_plan(config, prepared=Prepared(tuple(prompts), (), (), (), EncodeReport(), {}))
    trainee = attach(open_base(config, folder=base, device=plan.device), config=config)
    add_reference(trainee, adapter)
    if plan.layout.recompute and not plan.layout.kernels:
        checkpoint_layers(trainee)
    policy = Policy(trainee, temperature=1.0, layout=plan.layout)
    scorer = AdapterReward(policy, reward, end_id=2)
    cuda, steps = plan.device.startswith("cuda"), []
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    with endless(trainee.loaded), Sampler(trainee, config=config, longest=args.length) as sampler:
        folder = Path(tempfile.mkdtemp())
        loop = Loop(
            folder, config=config, prompts=prompts, policy=policy, reward=scorer, sampler=sampler,
            total=args.steps, log=EventLog(folder),
        )  # fmt: skip
        for _ in range(args.steps):
            steps.append(loop.step())
            print({k: round(v, 4) for k, v in steps[-1].items()}, flush=True)
        refreshed = []
        for _ in range(5):
            begin = time.perf_counter()
            sampler.engine.refresh()
            if cuda:
                torch.cuda.synchronize()
            refreshed.append(time.perf_counter() - begin)
        path = sampler.engine.path
    tail = steps[1:] or steps

    def middle(name: str) -> float:
        return sorted(s[name] for s in tail)[len(tail) // 2]

    return {
        "through": path,
        "tokens/s, generating": middle("tokens_per_second"),
        "seconds": {p: middle(f"seconds_{p}") for p in ("generate", "score", "learn")},
        "first step, s": sum(steps[0][f"seconds_{p}"] for p in ("generate", "score", "learn")),
        "refresh, ms": 1000 * min(refreshed),
        "peak GiB": torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0,
        "planned GiB": plan.need.total / 2**30,
        "row tokens": plan.layout.tokens,
        "recompute": plan.layout.recompute,
        "fused layers": plan.layout.kernels,
        "steps": steps,
    }


def verdicts(results: dict[str, Any]) -> dict[str, Any]:
    """The figure of issue 7, and where a step's time goes."""
    mine, theirs = results.get("ppo", {}), results.get("rag alone", {})
    if "seconds" not in mine:
        return {}
    parts = mine["seconds"]
    whole = sum(parts.values())
    found: dict[str, Any] = {
        "seconds a step": round(whole, 3),
        "shares": {k: round(v / whole, 3) for k, v in parts.items()},
    }
    if "tokens/s, sampled" in theirs:
        share = mine["tokens/s, generating"] / theirs["tokens/s, sampled"]
        found |= {"generation against rag alone": round(share, 3), f"at least {WANTED}": share >= WANTED}
    first = abs(mine["steps"][0]["kl"])
    found |= {"KL of the first step": round(first, 4), "policy and reference begin as one": first < 0.01}
    return found


def versions() -> dict[str, str]:
    """What it ran with."""
    import torch

    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    names = ("torch", "transformers", "peft", "bitsandbytes")
    return {"device": card, "date": datetime.now(UTC).date().isoformat()} | {
        n: metadata.version(n) for n in names
    }


def main() -> int:
    """Both, each in its own process, into one file that is written as they come."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "zhiwen-bench-ppo")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--length", type=int, default=128, help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=256, help="tokens of an answer")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--only", default="rag alone,ppo")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.tiny:
        args.prompts, args.length, args.tokens, args.steps = 4, 12, 10, 2
    from _random_model import REAL, SMALL, write_model
    from decode import make_adapter

    args.work.mkdir(parents=True, exist_ok=True)
    base = write_model(args.work / ("small" if args.tiny else "big"), SMALL if args.tiny else REAL)
    adapter = make_adapter(base, args.work)
    reward = make_reward(base, adapter, args.work)
    if args.one:
        found = (
            alone(base, adapter, args) if args.one == "rag alone" else stepping(base, adapter, reward, args)
        )
        args.out.write_text(json.dumps(found))
        return 0
    results: dict[str, Any] = {}
    begin = time.perf_counter()
    for name in args.only.split(","):
        part = args.out.with_suffix(".part.json")
        numbers = [
            x for n in ("prompts", "length", "tokens", "steps") for x in (f"--{n}", str(getattr(args, n)))
        ]
        command = [sys.executable, "-m", "tests.bench.ppo", "--one", name, "--out", str(part), *numbers]
        try:
            flags = ["--work", str(args.work), *(["--tiny"] if args.tiny else [])]
            subprocess.run([*command, *flags], check=True, timeout=240, cwd=ROOT)
            results[name] = json.loads(part.read_text())
            part.unlink()
        except (subprocess.SubprocessError, OSError, ValueError):
            results[name] = {"error": traceback.format_exc()}
        seconds = round(time.perf_counter() - begin, 1)
        found = {**versions(), "shape": "small" if args.tiny else "ChatGLM3-6B", "prompts": args.prompts,
                 "prompt tokens": args.length, "answer tokens": args.tokens, "seconds": seconds,
                 "results": results, "verdicts": verdicts(results)}  # fmt: skip
        args.out.write_text(json.dumps(found, indent=1) + "\n")
        print(f"{name}: {seconds} s since the beginning", flush=True)
    print(json.dumps(verdicts(results), indent=1))
    return 1 if any("error" in r for r in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
