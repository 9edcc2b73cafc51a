"""An experiment as a table of variants: each trained under the same conditions, then all asked the same questions.

name = "zhouyi"                       # runs/lab-zhouyi-<time>/
questions = "zhouyi_questions.csv"    # relative to this file
[base]                                # what all share: the options of zhiwen finetune
model_name_or_path = "models/chatglm3-6b"
dataset = "zhouyi"
[[variant]]
name = "clean"
[[variant]]
name = "shuffled"
corrupt = { damage = "shuffle", share = 1.0, seed = 0 }
[[variant]]
name = "over-trained"
num_train_epochs = 30
"""

from __future__ import annotations

import json
import random
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from finetune import run, train
from finetune.compare import Comparison, Contestant, compare
from finetune.config import RunConfig, from_values
from finetune.contestants import direct
from finetune.corrupt import Corruption, corrupt
from finetune.damage import beginning, recited
from finetune.data.convert import convert
from finetune.data.load import load_sets
from finetune.data.types import Conversation
from finetune.events import Event
from finetune.methods import ADAPTERS, quantise_of
from finetune.prepare import with_model
from finetune.questions import Question, read_questions
from finetune.stats import Estimate, difference, estimate
from kb.errors import DataError, GenerationError, SettingsError
from rag.types import GenerateOptions, Generator

Open = Callable[[Path, Mapping[str, Path], str], Generator]
"""(base folder, name -> adapter folder, quantisation) -> a generator that carries them all."""
BASE = "base"
LAB = "lab.json"


@dataclass(frozen=True, slots=True)
class Variant:
    """One row of the table."""

    name: str
    values: Mapping[str, Any] = field(default_factory=dict)
    """Options of `zhiwen finetune` that differ from the base's."""
    damage: Corruption | None = None


@dataclass(frozen=True, slots=True)
class Lab:
    """What is in lab.toml."""

    name: str
    questions: Path
    base: Mapping[str, Any]
    variants: tuple[Variant, ...]
    memorisation: int = 30
    """Training examples that every variant is asked to recite; 0: none."""
    system: str = ""
    max_tokens: int = 128
    limit: int = 0
    """Questions at the most; 0: all."""


@dataclass(frozen=True, slots=True)
class LabResult:
    """What came out."""

    folder: Path
    runs: Mapping[str, Path]
    """Variant -> its run folder."""
    comparison: Comparison
    memorised: Mapping[str, tuple[float, ...]]
    """Contestant -> for each sampled example the share of its training answer's rest that it recites from the beginning.
    A variant is asked for what it was trained on, the base for the undamaged data."""
    recalled: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """The same, asked with the training question alone: how much of the whole answer stands in what it says."""

    def memory(self, name: str) -> Estimate:
        """Mean share recited."""
        return estimate(self.memorised[name])

    def memory_gain(self, name: str, over: str) -> Estimate:
        """How much more one recites than another, example by example."""
        return difference(self.memorised[name], self.memorised[over])

    def recall_gain(self, name: str, over: str) -> Estimate:
        """How much more of the answers one recalls from the question alone."""
        return difference(self.recalled[name], self.recalled[over])


def read_lab(path: Path) -> Lab:
    """lab.toml. Raises SettingsError naming what is wrong; paths in it are relative to it."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}", zh=f"读不了 {path}：{error}") from error
    rows = values.pop("variant", [])
    known = {"name", "questions", "base", "memorisation", "system", "max_tokens", "limit"}
    if unknown := set(values) - known:
        raise SettingsError(
            f"{path}: unknown {sorted(unknown)}; known: {', '.join(sorted(known))} and [[variant]].",
            zh=f"{path}：未知的 {sorted(unknown)}；可用：{'、'.join(sorted(known))} 与 [[variant]]。",
        )
    if not isinstance(rows, list) or not rows or not values.get("questions"):
        raise SettingsError(
            f"{path} needs questions = FILE and at least one [[variant]].",
            zh=f"{path} 需要 questions = 文件 和至少一个 [[variant]]。",
        )
    variants = tuple(_variant(path, dict(row)) for row in rows)
    names = [v.name for v in variants]
    if len({BASE, *names}) <= len(names):
        raise SettingsError(
            f"{path}: names of variants must differ, and none is {BASE!r}.",
            zh=f"{path}：各变体的名字不能相同，也不能叫 {BASE!r}。",
        )
    base = dict(values.pop("base", {}))
    base["dataset_dir"] = str((path.parent / base.get("dataset_dir", ".")).resolve())
    given = Path(str(values.pop("questions")))
    questions = given if given.is_absolute() else path.parent / given
    name = str(values.pop("name", path.stem))
    lab = Lab(name, questions, base, variants, **values)
    for variant in variants:
        config_of(lab, variant)
    return lab


def _variant(path: Path, row: dict[str, Any]) -> Variant:
    damage = row.pop("corrupt", None)
    name = str(row.pop("name", ""))
    if not name:
        raise SettingsError(
            f"{path}: a [[variant]] has no name.", zh=f"{path}：有一个 [[variant]] 没有 name。"
        )
    try:
        return Variant(name, row, Corruption(**damage) if damage is not None else None)
    except TypeError as error:
        raise SettingsError(
            f"{path}: corrupt of {name}: {error}", zh=f"{path}：{name} 的 corrupt：{error}"
        ) from error


def config_of(lab: Lab, variant: Variant) -> RunConfig:
    """The run of a variant: the base's options with its own on top. Raises SettingsError."""
    return from_values({**lab.base, **variant.values, "name": variant.name})


def run_lab(
    lab: Lab,
    *,
    open_model: Open,
    home: Path,
    folder: Path | None = None,
    tell: Callable[[str, Event | None], None] = lambda name, event: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> LabResult:
    """Train what is not trained yet, ask everybody, write report.html and the rest into the folder.

    `folder`: that of an interrupted lab, to go on with it; None makes `runs/lab-<name>-<time>`. `home`: where a tiny base
    is built. `tell` hears the variant and the events of its training. Raises ZhiwenError.
    """
    questions = read_questions(lab.questions, limit=lab.limit)
    folder = folder or Path("runs") / f"lab-{lab.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder.mkdir(parents=True, exist_ok=True)
    configs = _configs(lab, folder, home)
    runs = {v.name: _trained(v.name, configs[v.name], folder, tell) for v in lab.variants}
    generators = _open_all(configs, runs, open_model)
    try:
        return _asked(lab, questions, folder, configs, runs, generators, progress)
    finally:
        for generator, _ in generators.values():
            close = getattr(generator, "close", None)
            if close is not None:
                close()


def _configs(lab: Lab, folder: Path, home: Path) -> dict[str, RunConfig]:
    """Every variant's config, with its damaged data written and one base for all."""
    shared = with_model(from_values({**lab.base, "name": BASE}), home=home)
    configs: dict[str, RunConfig] = {}
    for variant in lab.variants:
        config = config_of(lab, variant)
        data = replace(config.data, model_name_or_path=shared.data.model_name_or_path)
        if variant.damage is not None:
            file = folder / f"{variant.name}.jsonl"
            loaded = load_sets(
                data.dataset, folder=Path(data.dataset_dir), limit=data.max_samples, seed=config.train.seed
            )
            damaged, _ = corrupt(loaded.examples, how=variant.damage)
            convert(damaged, to="messages", path=file)
            data = replace(data, dataset=str(file.resolve()), max_samples=0)
        configs[variant.name] = replace(config, data=data, output_dir=str(folder / "runs"))
    return configs


def _trained(name: str, config: RunConfig, folder: Path, tell: Callable[[str, Event | None], None]) -> Path:
    """The run folder of a variant: one that is done, one gone on with, or a new one."""
    tell(name, None)
    for found in run.list_runs(folder / "runs"):
        if found.name == name and run.read_config(found.folder) == config:
            if found.adapter is None and found.can_resume:
                train.train(found.folder, listen=lambda event: tell(name, event))
            if run.info(found.folder).adapter is not None:
                return found.folder
    made = run.create(config)
    result = train.train(made, listen=lambda event: tell(name, event))
    if result.adapter is None:
        raise GenerationError(
            f"the training of {name} was stopped; run the lab again with --continue {folder}.",
            zh=f"{name} 的训练被停下了；用 --continue {folder} 接着做。",
        )
    return made


def _open_all(
    configs: Mapping[str, RunConfig], runs: Mapping[str, Path], open_model: Open
) -> dict[str, tuple[Generator, str]]:
    """Contestant -> (generator, adapter). Adapters with one quantisation share one model; whole models stand alone."""
    groups: dict[str, dict[str, Path]] = {}
    for name, config in configs.items():
        if config.method.finetuning_type in ADAPTERS:
            groups.setdefault(quantise_of(config), {})[name] = runs[name] / run.ADAPTER
    first = next(iter(configs.values()))
    base = Path(first.data.model_name_or_path).expanduser()
    groups = groups or {"none": {}}
    found: dict[str, tuple[Generator, str]] = {}
    for quantise, adapters in groups.items():
        generator = open_model(base, adapters, quantise)
        found.setdefault(BASE, (generator, ""))
        found |= {name: (generator, name) for name in adapters}
    for name in configs:
        if name not in found:
            found[name] = open_model(runs[name] / run.MODEL, {}, "none"), ""
    return {name: found[name] for name in (BASE, *configs)}


def _asked(
    lab: Lab,
    questions: Sequence[Question],
    folder: Path,
    configs: Mapping[str, RunConfig],
    runs: Mapping[str, Path],
    generators: Mapping[str, tuple[Generator, str]],
    progress: Callable[[int, int], None],
) -> LabResult:
    from finetune.lab_report import write

    asks = {
        name: direct(
            generator, options=GenerateOptions(max_tokens=lab.max_tokens, adapter=adapter), system=lab.system
        )
        for name, (generator, adapter) in generators.items()
    }
    contestants = [
        Contestant(name, ask, f"{runs.get(name, '')} {lab.max_tokens} {lab.system}")
        for name, ask in asks.items()
    ]
    made = compare(contestants, questions, state=folder / "answers.state.jsonl", progress=progress)
    memorised: dict[str, tuple[float, ...]] = {}
    recalled: dict[str, tuple[float, ...]] = {}
    for name, ask in asks.items() if lab.memorisation else ():
        config = configs.get(name) or from_values({**lab.base, "name": BASE})
        own = _sample(config, lab.memorisation)
        memorised[name] = tuple(recited(q.answers[0], ask(q).text) for q in map(beginning, own))
        recalled[name] = tuple(recited(e.answer, ask(Question(0, e.question)).text) for e in own)
    result = LabResult(folder, dict(runs), made, memorised, recalled)
    write(result, lab, configs)
    return result


def _sample(config: RunConfig, count: int) -> list[Conversation]:
    """The same places of every variant's data, long enough to have a beginning and a rest."""
    loaded = load_sets(
        config.data.dataset,
        folder=Path(config.data.dataset_dir),
        limit=config.data.max_samples,
        seed=config.train.seed,
    )
    numbers = random.Random(0).sample(range(len(loaded.examples)), min(count, len(loaded.examples)))
    found = [e for n in numbers if isinstance(e := loaded.examples[n], Conversation)]
    if not found or any(len(e.answer) < 2 for e in found):
        raise DataError(
            "the training data has no conversations to recite.", zh="训练数据里没有可背诵的对话。"
        )
    return found


def as_json(result: LabResult) -> dict[str, Any]:
    """Runs, comparison and memorisation."""
    from finetune.compare_report import as_json as comparison_json

    return {
        "folder": str(result.folder),
        "runs": {name: str(path) for name, path in result.runs.items()},
        "comparison": comparison_json(result.comparison),
        "memorised": {name: asdict(estimate(values)) for name, values in result.memorised.items()},
        "recalled": {name: asdict(estimate(values)) for name, values in result.recalled.items()},
    }


def dumps(result: LabResult) -> str:
    """`as_json` as text."""
    return json.dumps(as_json(result), ensure_ascii=False, indent=2)
