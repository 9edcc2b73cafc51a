"""Rows -> examples: the two layouts of dataset_info.json (alpaca, sharegpt), with or without preferences."""

from __future__ import annotations

import json
from typing import Any

from finetune.data.layout import Columns, Layout, Tags
from finetune.data.rows import Row
from finetune.data.types import Conversation, Example, Feedback, PlainText, Preference, Source, Turn, Unusable


def parse_row(row: Row, layout: Layout, source: Source) -> Example:
    """One example. Raises Unusable with the reason."""
    if not isinstance(row, dict):
        raise Unusable(
            f"expected an object, got {type(row).__name__}", f"应是对象，而不是 {type(row).__name__}"
        )
    for media in (layout.columns.images, layout.columns.videos, layout.columns.audios):
        if media and row.get(media):
            raise Unusable(
                f"it has {media}: pictures, video and sound cannot be trained on here",
                f"含有 {media}：本项目不能训练图片、视频和声音",
            )
    if layout.formatting == "sharegpt":
        return _sharegpt(row, layout, source)
    return _alpaca(row, layout, source)


def text_of(row: dict[str, Any], column: str, *, needed: bool = False) -> str:
    """The text in a column; a list of `{"type": "text"}` parts is joined; raises Unusable if it is something else."""
    value = row.get(column) if column else None
    if value is None:
        if needed:
            raise Unusable(
                f"column {column!r} is missing; there are {', '.join(map(str, row))}",
                f"缺少列 {column!r}；现有 {'、'.join(map(str, row))}",
            )
        return ""
    return plain(value, column)


def plain(value: Any, where: str) -> str:
    """Text of a value that may also be a number or a list of text parts."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or value is None:
        raise Unusable(f"{where!r} must be text, got {value!r}", f"{where!r} 应是文字，而不是 {value!r}")
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list) and all(isinstance(p, dict) and p.get("type") == "text" for p in value):
        return "".join(str(p.get("value", p.get("text", ""))) for p in value)
    raise Unusable(
        f"{where!r} must be text, got {type(value).__name__}",
        f"{where!r} 应是文字，而不是 {type(value).__name__}",
    )


def _tools(row: dict[str, Any], column: str) -> str:
    value = row.get(column) if column else None
    if not value:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# ------------------------------------------------------------------ alpaca


def _alpaca(row: dict[str, Any], layout: Layout, source: Source) -> Example:
    columns = layout.columns
    prompt = text_of(row, columns.prompt, needed=True)
    if columns.prompt == "text" and not columns.chosen and columns.response not in row:
        if not prompt.strip():
            raise Unusable("the text is empty", "文本是空的")
        return PlainText(prompt, source)
    query = text_of(row, columns.query)
    question = "\n".join(part for part in (prompt, query) if part)
    if not question.strip():
        raise Unusable("the question is empty", "问题是空的")
    turns = [*_history(row, columns), Turn("user", question)]
    system, tools = text_of(row, columns.system), _tools(row, columns.tools)
    if layout.ranking or columns.chosen:
        chosen, rejected = _pair(row, columns)
        return Preference(tuple(turns), chosen, rejected, system, tools, source)
    response = text_of(row, columns.response, needed=True)
    if not response.strip():
        raise Unusable("the answer is empty", "回答是空的")
    if columns.kto_tag:
        return Feedback(tuple(turns), response, _thumb(row, columns), system, tools, source)
    return Conversation((*turns, Turn("assistant", response)), system, tools, source)


def _history(row: dict[str, Any], columns: Columns) -> list[Turn]:
    pairs = row.get(columns.history) if columns.history else None
    if not pairs:
        return []
    if isinstance(pairs, str):
        try:
            pairs = json.loads(pairs)
        except json.JSONDecodeError as error:
            raise Unusable(
                f"history is not valid JSON: {error}", f"history 不是合法的 JSON：{error}"
            ) from error
    turns: list[Turn] = []
    for number, pair in enumerate(pairs if isinstance(pairs, list) else [pairs], start=1):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise Unusable(
                f"round {number} of the history is not a [question, answer] pair",
                f"历史第 {number} 轮不是 [问题, 回答]",
            )
        question, answer = plain(pair[0], "history"), plain(pair[1], "history")
        if not question.strip() or not answer.strip():
            raise Unusable(f"round {number} of the history is empty", f"历史第 {number} 轮有空的问题或回答")
        turns += [Turn("user", question), Turn("assistant", answer)]
    return turns


def _pair(row: dict[str, Any], columns: Columns) -> tuple[str, str]:
    names = columns.chosen or "chosen", columns.rejected or "rejected"
    if all(name in row for name in names):
        chosen, rejected = (_message_text(row[name], name) for name in names)
    else:
        answers = row.get(columns.response)
        if not isinstance(answers, list) or len(answers) != 2:
            raise Unusable(
                f"a preference needs {names[0]!r} and {names[1]!r}, or two answers in {columns.response!r}",
                f"偏好数据需要 {names[0]!r} 与 {names[1]!r}，或在 {columns.response!r} 里有两个回答",
            )
        chosen, rejected = (plain(a, columns.response) for a in answers)
    if not chosen.strip() or not rejected.strip():
        raise Unusable("one of the two answers is empty", "两个回答之一是空的")
    if chosen == rejected:
        raise Unusable("the chosen and the rejected answer are the same", "更优与更差的回答相同")
    return chosen, rejected


def _message_text(value: Any, where: str) -> str:
    if isinstance(value, dict):
        value = value.get("value", value.get("content"))
    return plain(value, where)


def _thumb(row: dict[str, Any], columns: Columns) -> bool:
    value = row.get(columns.kto_tag)
    if not isinstance(value, bool):
        raise Unusable(
            f"{columns.kto_tag!r} must be true or false, got {value!r}",
            f"{columns.kto_tag!r} 应是 true 或 false，而不是 {value!r}",
        )
    return value


# ------------------------------------------------------------------ sharegpt


def _sharegpt(row: dict[str, Any], layout: Layout, source: Source) -> Example:
    columns = layout.columns
    messages = row.get(columns.messages)
    if not isinstance(messages, list):
        raise Unusable(
            f"column {columns.messages!r} must be a list of messages",
            f"列 {columns.messages!r} 应是消息的列表",
        )
    turns, system = read_turns(messages, layout.tags)
    system = system or text_of(row, columns.system)
    tools = _tools(row, columns.tools)
    if layout.ranking or columns.chosen:
        _must_end(turns, "user")
        chosen, rejected = _pair(row, columns)
        return Preference(tuple(turns), chosen, rejected, system, tools, source)
    _must_end(turns, "assistant")
    if columns.kto_tag:
        return Feedback(tuple(turns[:-1]), turns[-1].content, _thumb(row, columns), system, tools, source)
    return Conversation(tuple(turns), system, tools, source)


def read_turns(messages: list[Any], tags: Tags) -> tuple[list[Turn], str]:
    """(turns, system prompt). Roles must alternate: user or observation, then assistant. Raises Unusable."""
    turns: list[Turn] = []
    system = ""
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, dict) or tags.role_tag not in message or tags.content_tag not in message:
            raise Unusable(
                f"message {number} needs {tags.role_tag!r} and {tags.content_tag!r}",
                f"第 {number} 条消息缺少 {tags.role_tag!r} 或 {tags.content_tag!r}",
            )
        role, content = message[tags.role_tag], plain(message[tags.content_tag], tags.content_tag)
        if role == tags.system_tag and number == 1:
            system = content
            continue
        turn = _turn(role, content, message, tags, number)
        asked = turn.role != "assistant"
        if asked != (len(turns) % 2 == 0):
            raise Unusable(
                f"message {number} is from {role!r}, out of turn: the two sides must alternate, the user first",
                f"第 {number} 条消息来自 {role!r}，次序不对：双方应轮流，用户在先",
            )
        if not content.strip():
            raise Unusable(f"message {number} is empty", f"第 {number} 条消息是空的")
        turns.append(turn)
    if not turns:
        raise Unusable("there are no messages", "没有消息")
    return turns, system


def _turn(role: Any, content: str, message: dict[str, Any], tags: Tags, number: int) -> Turn:
    train = bool(message.get("loss", True)) and message.get("loss_weight", 1.0) != 0
    if role == tags.user_tag:
        return Turn("user", content)
    if role == tags.assistant_tag:
        return Turn("assistant", content, train=train)
    if role == tags.observation_tag:
        return Turn("observation", content)
    if role == tags.function_tag:
        try:
            call = json.loads(content)
            arguments = call["arguments"]
            if not isinstance(arguments, str):
                arguments = json.dumps(arguments, ensure_ascii=False)
            return Turn("assistant", arguments, metadata=str(call["name"]), train=train)
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise Unusable(
                f"message {number} is a tool call but not {{name, arguments}} as JSON",
                f"第 {number} 条消息是工具调用，但不是含 name 与 arguments 的 JSON",
            ) from error
    known = ", ".join(
        (tags.user_tag, tags.assistant_tag, tags.observation_tag, tags.function_tag, tags.system_tag)
    )
    raise Unusable(
        f"message {number} has the role {role!r}; known are {known}",
        f"第 {number} 条消息的角色是 {role!r}；可用的有 {known}",
    )


def _must_end(turns: list[Turn], role: str) -> None:
    if (turns[-1].role == "assistant") != (role == "assistant"):
        raise Unusable(
            f"the conversation must end with the {role}'s message (an even number of turns for training)"
            if role == "assistant"
            else "the conversation must end with the user's message, since the two answers follow",
            "对话应以助手的回答结束（轮数为偶数）"
            if role == "assistant"
            else "对话应以用户的提问结束，后面才是两个回答",
        )
