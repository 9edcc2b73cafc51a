"""The tokenizer: traditional folded to simplified, words by the most likely path, single characters for the rest."""

from __future__ import annotations

import io
import math
import re
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from kb.errors import DataError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

UNKNOWN = "[UNK]"
MARK = "▁"
"""Stands before every text, so that none is without a token: its tiny row keeps float16 from dividing 0 by 0."""
SPECIAL_TOKENS = 2
_HAN = re.compile(r"[㐀-䶿一-鿿]+")
_LATIN = re.compile(r"[a-z]+|[0-9]+")


def fold_rules() -> dict[str, str]:
    """Traditional -> simplified, single characters only (from OpenCC's character table)."""
    import opencc

    table = Path(opencc.__file__).parent / "dictionary" / "TSCharacters.txt"
    rules = {}
    for line in table.read_text(encoding="utf-8").splitlines():
        cells = line.split("\t")
        if len(cells) == 2 and len(cells[0]) == 1:
            target = cells[1].split(" ")[0]
            if len(target) == 1 and target != cells[0]:
                rules[cells[0]] = target
    return rules


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def _field(message: bytes, number: int) -> bytes:
    """The first length-delimited field of that number in a protobuf message."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == 0:
            _, at = _varint(message, at)
        elif kind == 5:
            at += 4
        elif kind == 1:
            at += 8
        else:
            size, at = _varint(message, at)
            if key >> 3 == number:
                return message[at : at + size]
            at += size
    raise ValueError(f"no field {number}")


def compile_rules(rules: dict[str, str]) -> bytes:
    """A character map as sentencepiece compiles it, for tokenizers' Precompiled normaliser: one pass over the text."""
    import sentencepiece

    model = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "rules.tsv"
        table.write_text(
            "".join(f"{ord(a):X}\t{ord(b):X}\n" for a, b in sorted(rules.items())), encoding="utf-8"
        )
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["一二三四五六七八九十", "甲乙丙丁"]),
            model_writer=model,
            model_type="char",
            vocab_size=17,
            hard_vocab_limit=False,
            normalization_rule_tsv=str(table),
            minloglevel=2,
        )
    # ModelProto.normalizer_spec = 3, NormalizerSpec.precompiled_charsmap = 2
    return _field(_field(model.getvalue(), 3), 2)


def count_words(texts: Iterable[str], *, rules: dict[str, str], weight: float) -> Counter[str]:
    """Weighted counts of words (jieba's cut, at most 6 characters), characters and Latin runs."""
    import jieba

    jieba.setLogLevel(60)
    counts: Counter[str] = Counter()
    table = str.maketrans(rules)
    for text in texts:
        folded = text.translate(table).lower()
        for run in _HAN.findall(folded):
            counts.update(word for word in jieba.cut(run, HMM=True) if len(word) <= 6)
        counts.update(_LATIN.findall(folded))
    return Counter({word: count * weight for word, count in counts.items()})


def _always() -> list[str]:
    """Tokens that must exist so that nothing common is unknown: GB2312's characters, letters, digits, their pairs."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    tokens = letters + [a + b for a in letters for b in letters]
    tokens += (
        [str(n) for n in range(10)] + [f"{n:02d}" for n in range(100)] + [str(n) for n in range(1900, 2031)]
    )
    for high in range(0xB0, 0xF8):
        for low in range(0xA1, 0xFF):
            character = bytes((high, low)).decode("gb2312", errors="ignore")
            if character:
                tokens.append(character)
    return tokens


def dictionary_words(*, total: float) -> Counter[str]:
    """jieba's word list with its frequencies, scaled so that they sum to `total`."""
    import jieba

    jieba.setLogLevel(60)
    jieba.initialize()
    words = {w: f for w, f in jieba.dt.FREQ.items() if f > 0 and 1 < len(w) <= 6 and _HAN.fullmatch(w)}
    scale = total / sum(words.values())
    return Counter({word: count * scale for word, count in words.items()})


def build_tokenizer(counts: Counter[str], *, size: int, keep: Iterable[str] = ()) -> Tokenizer:
    """A unigram tokenizer of `size` tokens: the fixed ones, `keep`, then the most frequent.

    A token's score is the logarithm of its share; a word's path is the most likely one. Punctuation gives no token.
    Raises DataError if `size` has no room for the fixed ones.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    chosen = dict.fromkeys([*_always(), *keep])
    rules = fold_rules()
    for word in [w for w in chosen if any(c in rules for c in w)]:
        del chosen[word]
    if size < len(chosen) + SPECIAL_TOKENS:
        raise DataError(
            f"--tokens {size} is too small: letters and common characters alone are {len(chosen) + SPECIAL_TOKENS}.",
            zh=f"--tokens {size} 太小：仅字母和常用字就有 {len(chosen) + SPECIAL_TOKENS} 个。",
        )
    for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if len(chosen) >= size - SPECIAL_TOKENS:
            break
        if not any(c in rules for c in word):
            chosen[word] = None
    total = sum(counts.values())
    floor = 0.3
    scored = [(UNKNOWN, 0.0), (MARK, 0.0)]
    for word in list(chosen)[: size - SPECIAL_TOKENS]:
        count = counts.get(word, 0.0)
        # a character that is mostly met inside words still has to be cheaper than unknown
        scored.append((word, math.log(max(count, floor) / total)))
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=0, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Lowercase(),
            normalizers.Precompiled(compile_rules(rules)),
            normalizers.Prepend(MARK),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(
        Regex(MARK + r"|\p{Han}+|[a-z]+|[0-9]+|[\p{L}&&[^\p{Han}a-z]]+"), behavior="removed", invert=True
    )
    return tokenizer
