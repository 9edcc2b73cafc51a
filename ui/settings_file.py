"""Write one setting to zhiwen.toml, keeping the comments and the order of the rest."""

from __future__ import annotations

import re
from pathlib import Path

from ui.settings import FILE_NAME, Value, checked, known_keys, read_file


def toml_text(value: Value) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}" for c in escaped) + '"'
    return repr(value)


def write_setting(home: Path, key: str, text: str | None) -> Path:
    """Set `key` ("generator.kind") to `text`, or with None take it out. Checked before anything is written.

    Returns the file. Raises SettingsError if the key is unknown, the value is not allowed or the file is broken.
    """
    path = home / FILE_NAME
    where = "zhiwen settings"
    if key not in known_keys():
        checked(key, "", where=where)  # raises, with the key that was probably meant
    value = None if text is None else checked(key, text, where=where)
    read_file(path)
    lines = path.read_text(encoding="utf-8-sig").splitlines() if path.exists() else []
    section, _, name = key.rpartition(".")
    start, end = section_lines(lines, section)
    entry = re.compile(rf"\s*{re.escape(name)}\s*=")
    found = next((i for i in range(start, end) if entry.match(lines[i])), None)
    if value is None:
        if found is not None:
            del lines[found]
    else:
        line = f"{name} = {toml_text(value)}"
        if found is not None:
            lines[found] = line
        elif section and start == 0:
            lines += ["", f"[{section}]", line] if lines else [f"[{section}]", line]
        else:
            while end > start and not lines[end - 1].strip():
                end -= 1
            lines.insert(end, line)
    home.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".toml.new")
    draft.write_text("\n".join(lines) + "\n", encoding="utf-8")
    try:
        read_file(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def section_lines(lines: list[str], section: str) -> tuple[int, int]:
    """(first, one past last) line of a section's entries; (0, 0) if it has no header. "" is what stands before any header."""
    header = re.compile(r"\s*\[")
    if not section:
        return 0, next((i for i, line in enumerate(lines) if header.match(line)), len(lines))
    wanted = re.compile(rf"\s*\[\s*{re.escape(section)}\s*\]")
    start = next((i + 1 for i, line in enumerate(lines) if wanted.match(line)), 0)
    if not start:
        return 0, 0
    return start, next((i for i in range(start, len(lines)) if header.match(lines[i])), len(lines))
