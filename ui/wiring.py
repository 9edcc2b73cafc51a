"""The only place where parts are put together: settings in, open knowledge bases, embedders and generators out.

Nothing here prints or parses arguments, so that commands, pages and the HTTP API share it. What a person should be
told comes back as a value (`Opened.message`, `EmbedderChoice.message_zh`). Embedders and generators are kept, one
for each way of opening them, for as long as the process lives.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from kb.embed import EmbedderChoice, EmbedderConfig, choose_embedder, find_model, open_embedder
from kb.errors import EmbedderMismatch, KnowledgeBaseError, KnowledgeBaseNotFound, SettingsError
from kb.knowledge import KnowledgeBase, names
from kb.types import Embedder, SearchResult, SyncProgress, SyncReport
from rag.types import AnswerEvent, Generator, Message
from ui.settings import Settings
from ui.speakers import open_answering

if TYPE_CHECKING:
    from kb.calibration import Calibration
    from kb.search import SearchOptions
    from kb.sync import Plan, SyncOptions
    from rag.answer import AnswerOptions

_opening = threading.Lock()


# ------------------------------------------------------------------ embedders


def embedder_config(settings: Settings) -> EmbedderConfig:
    """[embedder] as `kb` takes it."""
    wanted = settings.embedder
    return EmbedderConfig(
        model=wanted.model,
        query_prefix=wanted.query_prefix,
        passage_prefix=wanted.passage_prefix,
        metric=wanted.metric,  # type: ignore[arg-type]
        device=wanted.device,
        dtype=wanted.dtype,
    )


@lru_cache(maxsize=4)
def _choice(config: EmbedderConfig, models: Path) -> EmbedderChoice:
    return choose_embedder(config, models_folder=models)


@lru_cache(maxsize=4)
def _opened(config: EmbedderConfig, models: Path) -> Embedder:
    return open_embedder(config, models_folder=models)


def new_embedder(settings: Settings) -> EmbedderChoice:
    """The embedder for a new knowledge base, with the sentence that says which one it is."""
    with _opening:
        return _choice(embedder_config(settings), settings.models)


def embedder_of(kb: KnowledgeBase, settings: Settings) -> Embedder:
    """The embedder that built this knowledge base, whatever the settings say now.

    Device and precision come from the settings. Raises EmbedderError if it is not on this machine,
    EmbedderMismatch if what goes by its name here is another one.
    """
    record = kb.embedder_record
    stored = {
        key: value for key, value in record.config.items() if key in EmbedderConfig.__dataclass_fields__
    }
    stored |= {"model": stored.get("model") or record.name}
    stored |= {"device": settings.embedder.device, "dtype": settings.embedder.dtype}
    with _opening:
        embedder = _opened(EmbedderConfig(**stored), settings.models)  # type: ignore[arg-type]
    if embedder.fingerprint != record.fingerprint and embedder.name == record.name:
        raise EmbedderMismatch(
            f"The embedder {record.name} on this machine is another version than the one that built {kb.name!r}. "
            f"Build it anew: zhiwen index {kb.source or 'FOLDER'} --kb {kb.name} --rebuild",
            zh=f"本机的嵌入模型 {record.name} 与建立知识库 {kb.name!r} 时的版本不同。"
            f"请重建：zhiwen index {kb.source or '文件夹'} --kb {kb.name} --rebuild",
        )
    kb.require(embedder)
    return embedder


# ------------------------------------------------------------------ knowledge bases


def kb_name_for(folder: Path) -> str:
    """The name that a knowledge base of this folder gets when none is given: the folder's own."""
    name = re.sub(r"[^\w.-]+", "-", folder.resolve().name).strip("-._ ")[:64]
    return name or "default"


def open_kbs(settings: Settings, chosen: Sequence[str] = ()) -> list[KnowledgeBase]:
    """The knowledge bases by name, all of them if none is named. Raises KnowledgeBaseNotFound if there is none."""
    wanted = list(chosen) or names(settings.home)
    if not wanted:
        raise KnowledgeBaseNotFound(
            f"There is no knowledge base in {settings.home} yet. Make one: zhiwen index FOLDER",
            zh=f"{settings.home} 里还没有知识库。先建一个：zhiwen index 文件夹",
        )
    return [KnowledgeBase.open(settings.home, name) for name in wanted]


def open_or_create(
    settings: Settings, name: str, *, rebuild: bool = False
) -> tuple[KnowledgeBase, EmbedderChoice]:
    """The knowledge base to index into. A new one gets the embedder of choice; an existing one keeps its own.

    `rebuild` deletes an existing one first (the documents stay). Raises EmbedderMismatch if the settings name another embedder than the one that built it.
    """
    if rebuild and name in names(settings.home):
        new_embedder(settings)  # first be sure that there is one to build it with
        KnowledgeBase.open(settings.home, name).remove()
    if name not in names(settings.home):
        choice = new_embedder(settings)
        config = {key: str(value) for key, value in asdict(embedder_config(settings)).items()}
        config["model"] = config["model"] or choice.embedder.name
        return KnowledgeBase.create(settings.home, name, embedder=choice.embedder, config=config), choice
    kb = KnowledgeBase.open(settings.home, name)
    if settings.embedder.model:
        choice = new_embedder(settings)
        kb.require(choice.embedder)
        return kb, choice
    return kb, EmbedderChoice(embedder_of(kb, settings))


def check_folder(kb: KnowledgeBase, folder: Path) -> None:
    """A knowledge base mirrors one folder: another one under its name would delete everything in it."""
    before = kb.source
    if before is not None and before.resolve() != folder.resolve() and kb.store.files():
        raise KnowledgeBaseError(
            f"Knowledge base {kb.name!r} mirrors {before}, not {folder}: indexing would delete what it holds. "
            f"Give another name with --kb, or --move if the folder was moved.",
            zh=f"知识库 {kb.name!r} 对应的是 {before}，不是 {folder}：照此索引会删掉里面的内容。"
            f"请用 --kb 另起名字；如果是文件夹搬了位置，请加 --move。",
        )


def index_folder(
    settings: Settings,
    folder: Path,
    *,
    kb: KnowledgeBase,
    embedder: Embedder,
    options: SyncOptions,
    progress: Callable[[SyncProgress], None],
    cancel: threading.Event | None = None,
) -> tuple[SyncReport, Calibration | None]:
    """Mirror the folder, then measure when to refuse. No calibration after an interruption or for an empty one."""
    from kb.sync import sync

    report = sync(kb, folder, embedder=embedder, options=options, progress=progress, cancel=cancel)
    changed = any(report.counts.get(kind, 0) for kind in ("added", "changed", "deleted"))
    if report.interrupted or not report.chunks or not (changed or kb.value("calibration") is None):
        return report, None
    progress(SyncProgress("calibrate", 0, 1))
    calibration = calibrate_kb(kb, embedder=embedder)
    progress(SyncProgress("calibrate", 1, 1))
    return report, calibration


def plan_folder(settings: Settings, folder: Path, *, name: str, options: SyncOptions) -> Plan:
    """What indexing would do. Creates nothing: a knowledge base that does not exist yet counts as empty."""
    import tempfile

    from kb.sync import plan

    if name in names(settings.home):
        return plan(KnowledgeBase.open(settings.home, name), folder, options=options)
    with tempfile.TemporaryDirectory() as scratch:
        choice = new_embedder(settings)
        return plan(
            KnowledgeBase.create(Path(scratch), name, embedder=choice.embedder), folder, options=options
        )


def calibrate_kb(kb: KnowledgeBase, *, embedder: Embedder) -> Calibration:
    """Measure when to refuse and keep it with the knowledge base."""
    from kb.calibrate import calibrate

    return calibrate(kb, embedder=embedder)


# ------------------------------------------------------------------ searching and answering


def search_options(settings: Settings) -> SearchOptions:
    """[search] as `kb` takes it. Raises SettingsError if the reranker is not on this machine."""
    from kb.search import SearchOptions

    wanted = settings.search
    reranker = ""
    if wanted.reranker:
        found = find_model(wanted.reranker, models_folder=settings.models)
        if found is None:
            raise SettingsError(
                f"search.reranker = {wanted.reranker!r} is not on this machine. Put its folder into {settings.models}, "
                f"or run: zhiwen settings unset search.reranker",
                zh=f"本机没有 search.reranker = {wanted.reranker!r}。请把它的文件夹放到 {settings.models}，"
                f"或运行：zhiwen settings unset search.reranker",
            )
        reranker = str(found)
    return SearchOptions(limit=wanted.limit, mode=wanted.mode, reranker=reranker)  # type: ignore[arg-type]


def find(
    settings: Settings, question: str, *, kbs: Sequence[KnowledgeBase], options: SearchOptions | None = None
) -> SearchResult:
    """Search several knowledge bases at once, each with its own embedder."""
    from kb.search import search

    return search(
        kbs,
        question,
        embedder=lambda kb: embedder_of(kb, settings),
        options=options or search_options(settings),
    )


def personas_folder(settings: Settings) -> Path:
    """Where the person's own roles are kept."""
    return settings.home / "personas"


def answer_options(settings: Settings, *, persona: str = "", system: str = "") -> AnswerOptions:
    """[search] and [generator] as `rag` takes them. Raises SettingsError for a role without a language model."""
    from rag.answer import AnswerOptions
    from rag.persona import find_persona
    from rag.types import GenerateOptions

    wanted = settings.generator
    if (persona or system) and wanted.kind == "none":
        raise SettingsError(
            "--persona and --system need a language model, and none is set. See: zhiwen doctor",
            zh="--persona 和 --system 需要语言模型，目前没有配置。请看：zhiwen doctor",
        )
    return AnswerOptions(
        search=search_options(settings),
        generate=GenerateOptions(
            max_tokens=wanted.max_tokens,
            temperature=wanted.temperature,
            top_p=wanted.top_p,
            repetition_penalty=wanted.repetition_penalty,
        ),
        budget_tokens=settings.search.budget_tokens,
        persona=find_persona(persona, folder=personas_folder(settings)) if persona else None,
        system=system,
    )


def reply(
    settings: Settings,
    question: str,
    *,
    kbs: Sequence[KnowledgeBase],
    generator: Generator | None,
    history: Sequence[Message] = (),
    options: AnswerOptions | None = None,
    cancel: threading.Event | None = None,
) -> Iterator[AnswerEvent]:
    """Answer one question; yields what happens on the way and the answer last."""
    from rag.answer import stream_answer

    return stream_answer(
        question,
        kbs=kbs,
        embedder=lambda kb: embedder_of(kb, settings),
        generator=generator,
        history=history,
        options=options or answer_options(settings),
        cancel=cancel,
    )


def open_generator(settings: Settings) -> Generator | None:
    """What [generator] names, opened once for the life of the process; None for extractive answers.

    Raises SettingsError, ModelError (a missing or broken folder) or GenerationError (a server).
    """
    if settings.generator.kind == "none":
        return None
    with _opening:
        return open_answering(settings)
