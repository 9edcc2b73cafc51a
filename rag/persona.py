"""Kept role descriptions: who answers, and how. Some of our own, and a folder of JSON files of the person's own."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from kb.errors import DataError

_NAME = re.compile(r"[^\W_][\w-]{0,31}")
_MOST = 4000
"""Characters of a description: it is sent with every question."""


def check_persona_name(name: str) -> str:
    """The name itself. Raises DataError: it becomes a file name, so no path can be made of it."""
    if not _NAME.fullmatch(name):
        raise DataError(
            f"{name!r} cannot be the name of a persona: use letters, digits, - and _, at most 32.",
            zh=f"角色名不能是 {name!r}：只能用文字、字母、数字、- 和 _，最多 32 个字。",
        )
    return name


@dataclass(frozen=True, slots=True)
class Persona:
    """A role description with a name to call it by."""

    name: str
    """Letters of any script, digits, - and _; at most 32."""
    system: str
    """What the model is told about its role, as the system message."""
    title: str = ""
    """One line for lists."""

    def __post_init__(self) -> None:
        check_persona_name(self.name)
        if not self.system.strip() or len(self.system) > _MOST:
            raise DataError(
                f"Persona {self.name!r}: the description has {len(self.system)} characters; 1 to {_MOST} are allowed.",
                zh=f"角色“{self.name}”的描述有 {len(self.system)} 个字，应为 1 到 {_MOST} 个字。",
            )


_KEEP = "回答只能依据已知信息，其中的数字、日期和名称照原文说；已知信息里没有的，就照约定的那句话说无法回答，不要编造。"

BUILT_IN: tuple[Persona, ...] = (
    Persona(
        "诸葛亮",
        "你是三国时蜀汉的丞相诸葛亮，字孔明。你以第一人称说话，称自己为“亮”，称对方为“足下”，语气从容谨慎，先说结论再陈缘由，"
        f"用浅近的文言夹白话，不堆砌典故。{_KEEP}",
        "蜀汉丞相，从容谨慎，引据而答",
    ),
    Persona(
        "曹操",
        "你是三国时的魏武帝曹操，字孟德。你以第一人称说话，称自己为“孤”，语气豪迈直接，先断后论，话不多。"
        + _KEEP,
        "魏武帝，豪迈直接",
    ),
    Persona(
        "关羽",
        "你是三国时蜀汉的将军关羽，字云长。你以第一人称说话，称自己为“关某”，重义守信，言语简短有力。"
        + _KEEP,
        "蜀汉名将，言简意重",
    ),
    Persona(
        "人事专员",
        "你是公司的人事专员，熟悉员工手册。你说话客气、明白，先给出答案，再说在哪一条、要办什么手续、找谁。"
        + _KEEP,
        "客气明白，先答后说手续",
    ),
    Persona(
        "周易讲者",
        "你讲解《周易》。先引卦辞或爻辞的原文，再用今天的话说它的意思，不预言吉凶，不给人算命。" + _KEEP,
        "先引原文，再讲今义",
    ),
)


def personas(folder: Path | None = None) -> list[Persona]:
    """All of them by name: those in `folder` (NAME.json) go before built-in ones of the same name."""
    found = {persona.name: persona for persona in BUILT_IN}
    if folder is not None and folder.is_dir():
        for path in sorted(folder.glob("*.json")):
            persona = read_persona(path)
            found[persona.name] = persona
    return sorted(found.values(), key=lambda persona: persona.name)


def find_persona(name: str, *, folder: Path | None = None) -> Persona:
    """The persona of that name. Raises DataError that lists those there are."""
    check_persona_name(name)
    every = personas(folder)
    for persona in every:
        if persona.name == name:
            return persona
    known = "、".join(persona.name for persona in every)
    raise DataError(
        f"There is no persona {name!r}. There are: {known}.", zh=f"没有名为“{name}”的角色。现有：{known}。"
    )


def read_persona(path: Path) -> Persona:
    """A persona from {"system": "...", "title": "..."}; its name is the file's. Raises DataError naming the file."""
    try:
        if path.stat().st_size > 64_000:
            raise ValueError("larger than 64 KB")
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or not isinstance(content.get("system"), str):
            raise ValueError('it must be {"system": "...", "title": "..."}')
        return Persona(path.stem, content["system"], str(content.get("title", "")))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: this persona cannot be read: {error}.", zh=f"{path}：无法读取这个角色：{error}。"
        ) from error


def save_persona(persona: Persona, *, folder: Path) -> Path:
    """Write NAME.json (whole or not at all) and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{check_persona_name(persona.name)}.json"
    content = {key: value for key, value in asdict(persona).items() if key != "name"}
    part = path.with_suffix(".json.part")
    part.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    part.replace(path)
    return path


def remove_persona(name: str, *, folder: Path) -> None:
    """Delete a persona of the person's own. Raises DataError if there is none; built-in ones stay."""
    path = folder / f"{check_persona_name(name)}.json"
    if not path.is_file():
        built_in = any(persona.name == name for persona in BUILT_IN)
        why = ("it is built in", "它是内置的") if built_in else ("there is none", "没有这个角色")
        raise DataError(
            f"Persona {name!r} cannot be removed: {why[0]}.", zh=f"无法删除角色“{name}”：{why[1]}。"
        )
    path.unlink()
