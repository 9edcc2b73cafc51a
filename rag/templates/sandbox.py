"""Jinja for templates from elsewhere: a sandbox that reaches nothing, with the few names that chat templates use."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from kb.errors import ModelError

OPEN, CLOSE = "\ue102", "\ue103"
"""Stand around what a template has in {% generation %} ... {% endgeneration %}."""
FIXED_DATE = (2024, 7, 26)


def compiled(source: str, *, folder: Path) -> Any:
    """The template, ready to render. Raises ModelError if it is not Jinja."""
    import jinja2

    try:
        return _environment().from_string(source)
    except jinja2.exceptions.TemplateError as error:
        raise ModelError(
            f"The chat template of {folder} is broken: {error}. Choose another one: --template alpaca, vicuna or default.",
            zh=f"{folder} 自带的对话模板有错误：{error}。请另选：--template alpaca、vicuna 或 default。",
        ) from error


@lru_cache(maxsize=1)
def _environment() -> Any:
    import datetime

    import jinja2
    from jinja2.ext import Extension, loopcontrols
    from jinja2.nodes import CallBlock
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):  # type: ignore[misc, unused-ignore]
        """Marks what stands in a {% generation %} block."""

        tags = {"generation"}  # noqa: RUF012 - as Jinja wants it

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return CallBlock(self.call_method("marked"), [], [], body).set_lineno(line)

        def marked(self, caller: Any) -> str:
            return f"{OPEN}{caller()}{CLOSE}"

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )

    def refuse(message: object) -> None:
        raise jinja2.exceptions.TemplateError(str(message))

    def as_json(value: object, indent: int | None = None, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    def today(form: str) -> str:
        return datetime.date(*FIXED_DATE).strftime(form)

    environment.filters["tojson"] = as_json
    environment.globals |= {"raise_exception": refuse, "strftime_now": today}
    return environment
