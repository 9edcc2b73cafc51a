"""What an OpenAI-compatible server answered instead of an answer, as one sentence that says what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from kb.errors import GenerationError

_OVERFLOW = re.compile(
    r"context.{0,20}(?:length|window|size)|maximum context|too many tokens|exceeds.{0,30}context", re.I
)


def said_by(body: str) -> str:
    """The server's own words: `error.message`, `detail` or the beginning of the text."""
    try:
        data = json.loads(body)
    except ValueError:
        return " ".join(body.split())[:200]
    if isinstance(data, dict):
        error = data.get("error", data.get("detail", data.get("message", "")))
        if isinstance(error, dict):
            error = error.get("message", "")
        return " ".join(str(error).split())[:300]
    return ""


def explain(url: str, model: str, status: int, body: str, offered: Sequence[str]) -> GenerationError:
    """The error for an HTTP status. `offered`: models that the server lists, if it was asked."""
    said = said_by(body)
    if status in (401, 403):
        return GenerationError(
            f"{url} refused the key ({status}): {said}. Set the environment variable that generator.key_env names.",
            zh=f"{url} 不接受密钥（{status}）：{said}。请检查 generator.key_env 所指的环境变量。",
        )
    if _OVERFLOW.search(said) or status == 413:
        return GenerationError(
            f"The prompt is longer than {model} can read: {said}. Lower search.budget_tokens or generator.max_tokens.",
            zh=f"提示词超出了 {model} 的上下文长度：{said}。请调小 search.budget_tokens 或 generator.max_tokens。",
        )
    if status == 404 or (status == 400 and offered and model not in offered):
        names = ", ".join(offered) or "it does not say which"
        return GenerationError(
            f"{url} has no model {model!r} ({status}: {said}). It offers: {names}. "
            "Check generator.model, and that the address ends in /v1.",
            zh=f"{url} 上没有模型 {model!r}（{status}：{said}）。可用的有：{names}。"
            "请检查 generator.model，以及地址是否以 /v1 结尾。",
        )
    if status == 429:
        return GenerationError(
            f"{url} has too many requests or no quota left ({said}). Try again later.",
            zh=f"{url} 请求过多或额度已用完（{said}）。请稍后再试。",
        )
    if 300 <= status < 400:
        return GenerationError(
            f"{url} redirects elsewhere ({status}); give the address that it redirects to.",
            zh=f"{url} 被重定向（{status}）；请直接填写重定向后的地址。",
        )
    return GenerationError(
        f"{url} answered with status {status}: {said or 'no text'}. Look at the server's log.",
        zh=f"{url} 返回状态 {status}：{said or '没有说明'}。请查看服务端日志。",
    )


def unreachable(url: str, error: Exception) -> GenerationError:
    """No connection, or silence for longer than the timeout."""
    kind = type(error).__name__
    if "ReadTimeout" in kind:
        return GenerationError(
            f"{url} did not send anything for too long. Raise generator.timeout, or look at the server.",
            zh=f"{url} 长时间没有响应。请调大 generator.timeout，或检查服务。",
        )
    return GenerationError(
        f"{url} cannot be reached ({kind}: {error}). Is the server running, and is the address right?",
        zh=f"无法连接 {url}（{kind}：{error}）。服务在运行吗？地址对吗？",
    )


def broke_off(url: str, tokens: int) -> GenerationError:
    """The stream ended without saying why."""
    return GenerationError(
        f"{url} broke off in the middle of the answer, after {tokens} tokens. Ask again, or look at the server's log.",
        zh=f"{url} 在回答中途断开（已收到 {tokens} 个 token）。请重试，或查看服务端日志。",
    )
