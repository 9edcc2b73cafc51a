"""Follow-up questions made self-contained, so that searching for them finds something.

那病假呢？ after 年假有几天？ is 病假有几天？. A question that stands alone is never touched. With a generator the rewriting is its
work, checked afterwards; without one rules do it: pronouns, "and X?", "the second one", questions without a subject.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rag.question import content_terms, is_english
from rag.types import GenerateOptions, Generator, Message

_ABOUT = re.compile(
    r"^(?:那么?|那如果|如果|要是|换成|换做|至于|还有|另外)?[，,]?\s*(?:是|换成)?(?P<what>[^，,？?。]{1,24}?)(?:呢|怎么样|又如何)\s*[？?。]*$"
)
_ABOUT_EN = re.compile(
    r"^(?:and|what about|how about|and what about)\s+(?:the\s+)?(?P<what>[^?]{1,60})\?*$", re.I
)
_PRONOUN = re.compile(
    r"(?:这|那)(?:个|种|项|款|台|些|件|条|本|部)(?:东西|事情|产品|规定|机器|制度)?(?!月|年|天|时候|小时|星期|人)|它们?|(?<![其给])[他她]们?|"
    r"(?<![应不活罪])该(?=产品|机器|公司|员工|规定|型号|项)(?:产品|机器|公司|员工|规定|型号|项)|上述(?:情况|规定|内容)?|此(?:项|事|外规定)|"
    r"(?:^|(?<=[，,]))其(?=[^他实中余次])"
)
_PRONOUN_EN = re.compile(r"\b(?:it|its|they|them|their|this one|that one|this|that|these|those)\b", re.I)
_ORDINAL = re.compile(
    r"(?:第(?P<n>[一二三四五六七八九十0-9]{1,3})(?:条|点|个|项|种)|(?P<last>最后一?(?:条|点|个|项|种))|(?P<pair>前者|后者))"
)
_ITEM = re.compile(
    r"^\s*(?:[-*•]|[（(]?[0-9]{1,2}[)）.、．]|[一二三四五六七八九十]{1,3}、|[①-⑳]|第[一二三四五六七八九十]{1,3}[，,、：])\s*(?P<text>.+)$",
    re.M,
)
_NO_SUBJECT = re.compile(
    r"^(?:那么?|所以|然后|还)?[，,]?\s*(?:为什么|为何|怎么|如何|怎样|多少钱|多久|几天|多少|什么时候|在哪|哪里|谁|需要|要|能|可以|可不可以|能不能|有没有|是不是|具体)"
)
_SUBJECT_END = re.compile(
    r"的|去|有|是|可以|可不可以|需要|要(?!求)|能|应|怎|如何|为什么|多少|多久|几|什么|哪|谁|吗|呢|？|\?|，|,"
)
_MARKS = re.compile(r"\[\d{1,2}\]")
_DIGITS = {c: i for i, c in enumerate("零一二三四五六七八九十")}

_INSTRUCTION = (
    "【指令】把最后的问题改写成一个不看前文也能看懂的问题：补上省略的主语，把“它”“这个”“那……呢”换成所指的内容。不要回答问题，"
    "不要加入前文没有的信息，只输出改写后的一个问题。"
)


def rewrite(question: str, history: Sequence[Message], *, generator: Generator | None = None) -> str:
    """The question made self-contained from `history`; empty if it stands alone or nothing came before it.

    With a generator what it wrote is used if it is one short question about the same thing; else the rules decide.
    """
    turns = [message for message in history if message.role in ("user", "assistant")]
    if not any(turn.role == "user" for turn in turns) or not leans(question):
        return ""
    by_rules = _by_rules(question, turns)
    if generator is None:
        return by_rules if by_rules != question else ""
    written = _asked_of(generator, question, turns[-6:])
    if _plausible(written, question, turns):
        return written if written != question else ""
    return by_rules if by_rules != question else ""


def leans(question: str) -> bool:
    """Whether a question leans on what was said before: a pronoun, an ellipsis, an ordinal, no subject of its own."""
    text = question.strip()
    if is_english(text):
        if _ABOUT_EN.match(text):
            return True
        terms = content_terms(text)
        return (bool(_PRONOUN_EN.search(text)) and len(terms) <= 4) or (
            len(terms) == 0 and len(text.split()) <= 4
        )
    if _ABOUT.match(text):
        return len(text) <= 16 or text.startswith("那")
    if _PRONOUN.search(text):
        return True
    if _ORDINAL.match(re.sub(r"^(?:那么?|请问|刚才说的|上面的)", "", text)):
        return "第" not in text or len(_content(text)) <= 10
    content = _content(text)
    return len(content) <= 1 or (len(content) <= 4 and bool(_NO_SUBJECT.match(text)))


def _content(text: str) -> str:
    """Characters of a Chinese question that are not words of asking."""
    return "".join(term for term in content_terms(text) if len(term) == 1 or term.isascii())


def _by_rules(question: str, turns: Sequence[Message]) -> str:
    """Resolve turn after turn: what the last question meant may itself come from the one before."""
    before, said = "", ""
    for turn in turns:
        if turn.role == "assistant":
            said = turn.content
        else:
            before = _resolved(turn.content, before, said) if before and leans(turn.content) else turn.content
    return _resolved(question, before, said)


def _resolved(question: str, before: str, said: str) -> str:
    """`question` with what it leans on taken from the question before it and the answer to that."""
    text = re.sub(r"^(?:那么?)[，,]\s*", "", question.strip())
    if is_english(text):
        return _resolved_english(text, before)
    if about := _ABOUT.match(text):
        return _put_in(about["what"].removeprefix("那").strip(), before)
    if ordinal := _ORDINAL.search(text):
        item = _item(said, ordinal)
        if item:
            return text.replace(ordinal[0], f"“{item}”", 1)
    topic = subject(before)
    if _PRONOUN.search(text):
        rest = _PRONOUN.sub(topic, text, count=1)
        return re.sub(r"^那(?!些|个)", "", rest)
    return f"{topic}{re.sub(r'^(?:那么?|所以|然后)', '', text)}"


def _resolved_english(text: str, before: str) -> str:
    if about := _ABOUT_EN.match(text):
        return f"{about['what'].strip()}: {before.strip()}"
    topic = " ".join(
        word for word in re.findall(r"[\w-]+", before) if word.lower() not in _EN_ASKING and len(word) > 1
    )
    return f"{text.rstrip('?').strip()} ({topic})?" if topic else text


_EN_ASKING = frozenset(
    [
        "what",
        "who",
        "where",
        "when",
        "which",
        "why",
        "how",
        "is",
        "are",
        "was",
        "were",
        "do",
        "does",
        "did",
        "can",
        "could",
        "the",
        "an",
        "of",
        "to",
        "in",
        "for",
        "on",
        "my",
        "many",
        "much",
        "long",
    ]
)


def subject(question: str) -> str:
    """What a question is about: 年假有几天？ -> 年假; 听泉 T3 的价格是多少？ -> 听泉 T3."""
    text = re.sub(r"^(?:请问|我想知道|我想问|那么?)[，,]?", "", question.strip())
    cut = _SUBJECT_END.search(text, 1)
    head = text[: cut.start()].strip() if cut else text.strip("？?。 ")
    if 2 <= len(head) <= 14:
        return head
    runs = re.split(r"[，,。？?]", text)
    return max(runs, key=len)[:20]


def _put_in(what: str, before: str) -> str:
    """`what` in the place of what is of its kind in the question before: 病假 for 年假, T5 for T3, else for the subject."""
    clean = re.sub(r"^(?:那么?|如果|要是|换成|对于|关于)", "", what)
    if re.search(r"[A-Za-z0-9]", clean):
        same = r"[A-Za-z]+[-_]?[0-9]+[A-Za-z0-9-]*" if re.search(r"[A-Za-z]", clean) else r"[0-9]+"
        if len(re.findall(same, before)) == 1 and re.fullmatch(rf".{{0,2}}{same}.{{0,2}}", clean):
            return re.sub(same, re.search(same, clean)[0], before)  # type: ignore[index]
    head = subject(before)
    if len(head) <= 5 and before.startswith(head) and head[-1] == clean[-1]:
        return clean + before[len(head) :]
    for size in range(min(len(clean) - 1, 6), 0, -1):
        tail = clean[-size:]
        at = before.find(tail)
        if at > 0 and len(clean) - size <= 3 and not re.match(r"[的了是吗]", tail):
            first = max(0, at - (len(clean) - size))
            if not _SUBJECT_END.search(before[first:at]) and not re.search(
                r"[，,去到在和]", before[first:at]
            ):
                return before[:first] + clean + before[at + size :]
    if before.startswith(head) and len(head) < len(before):
        return clean + before[len(head) :]
    return f"{clean}：{before}"


def _item(said: str, ordinal: re.Match[str]) -> str:
    """The item of the last answer that 第二条, 最后一点 or 后者 means; empty if the answer has no list."""
    items = [found["text"].strip() for found in _ITEM.finditer(_MARKS.sub("", said))]
    if not items:
        return ""
    if ordinal["last"]:
        at = len(items)
    elif ordinal["pair"]:
        at = 1 if ordinal["pair"] == "前者" else len(items)
    else:
        written = ordinal["n"]
        at = int(written) if written.isdigit() else _DIGITS.get(written, 0)
    return items[at - 1][:60].rstrip("。；;") if 1 <= at <= len(items) else ""


def _asked_of(generator: Generator, question: str, turns: Sequence[Message]) -> str:
    """What the model makes of the question."""
    lines = [
        f"{'问' if turn.role == 'user' else '答'}：{_MARKS.sub('', turn.content)[:300]}" for turn in turns
    ]
    text = f"{_INSTRUCTION}\n\n【对话】\n" + "\n".join(lines) + f"\n\n【问题】{question}\n\n【改写】"
    options = GenerateOptions(max_tokens=96, stop=("\n",))
    pieces = generator.stream([Message("user", text)], options=options)
    written = "".join(piece.text for piece in pieces).strip()
    return re.sub(r"^(?:改写(?:后的问题)?|问题|问)[：:]\s*", "", written).strip("“”\"' ")


def _plausible(written: str, question: str, turns: Sequence[Message]) -> bool:
    """One short line that stands alone, keeps the question's own terms and adds none that nobody said."""
    if not written or "\n" in written or len(written) > 120 or leans(written):
        return False
    known = set(content_terms(question + " " + " ".join(turn.content for turn in turns)))
    new = set(content_terms(written))
    own = set(content_terms(_PRONOUN.sub("", question)))
    return len(new - known) <= max(2, len(new) // 4) and (not own or bool(own & new))
