"""The short codes that loading and syncing give, as sentences with what to do."""

from __future__ import annotations

from ui.text import pick

REASONS: dict[str, tuple[str, str, str, str]] = {
    # code: (what, Chinese; what, English; what to do, Chinese; what to do, English)
}


def reason_words(reason: str) -> str:
    """A code, or several with commas, or any sentence, as a person reads it. Unknown ones are shown as they are."""
    return (
        pick("；", "; ").join(_one(code.strip()) for code in reason.split(",")) if known(reason) else reason
    )


def known(reason: str) -> bool:
    """Whether every part of it is a code of ours."""
    return all(code.strip().split(":")[0] in REASONS for code in reason.split(","))


def _one(code: str) -> str:
    name, _, detail = code.partition(":")
    chinese, english, _, _ = REASONS[name]
    return pick(chinese, english) + (f"（{detail.strip()}）" if detail else "")


def advice_for(reason: str, *, given: str = "") -> str:
    """What to do about it: ours in the language in force, else the advice that came with it."""
    for code in reason.split(","):
        if entry := REASONS.get(code.strip().split(":")[0]):
            advice = pick(entry[2], entry[3])
            if advice:
                return advice
    return given
