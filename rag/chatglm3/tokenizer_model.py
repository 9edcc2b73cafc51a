"""The SentencePiece file of ChatGLM (`tokenizer.model`), read with SentencePiece's own description of the format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kb.errors import ModelError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""SentencePiece's types of a piece."""

SPACE = "\u2581"
"""What SentencePiece writes for a space."""

SPECIAL_NAMES = (
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "<sop>",
    "<eop>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
)
"""Special tokens in the order of their ids, right after the pieces. The official names of the fourth and fifth are `sop`
and `eop`; as tokens of those names they would cut "people" and "philosophy", so the standard tokenizer writes them in
angle brackets. No text is ever encoded to them either way."""


@dataclass(frozen=True, slots=True)
class Specials:
    """Ids of the special tokens."""

    mask: int
    gmask: int
    smask: int
    sop: int
    eop: int
    system: int
    user: int
    assistant: int
    observation: int
    eos: int = 2
    pad: int = 0

    @classmethod
    def after(cls, pieces: int) -> Specials:
        """The specials of a tokenizer of so many pieces: 64,789 in the official ones."""
        return cls(*range(pieces, pieces + len(SPECIAL_NAMES)))

    @property
    def ends(self) -> tuple[int, int, int]:
        """Ids that end an assistant's turn."""
        return self.eos, self.user, self.observation

    def role(self, name: str) -> int:
        """Id of a role. Raises KeyError for a role that there is none of."""
        roles = {
            "system": self.system,
            "user": self.user,
            "assistant": self.assistant,
            "observation": self.observation,
        }
        return roles[name]


@dataclass(frozen=True, slots=True)
class PieceModel:
    """The pieces of a `tokenizer.model`."""

    pieces: tuple[str, ...]
    scores: tuple[float, ...]
    types: tuple[int, ...]

    @property
    def specials(self) -> Specials:
        """The ids after the pieces."""
        return Specials.after(len(self.pieces))


def read_pieces(path: Path) -> PieceModel:
    """Read a `tokenizer.model`. Raises ModelError where it is not laid out as ChatGLM's."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except FileNotFoundError as error:
        raise ModelError(
            f"{path} is missing. It comes with the official model.", zh=f"缺少 {path}，它随官方模型提供。"
        ) from error
    except Exception as error:  # protobuf's DecodeError has no stable home
        raise ModelError(
            f"{path} is not a SentencePiece model: {error}", zh=f"{path} 不是 SentencePiece 模型：{error}"
        ) from error
    normal, trainer = proto.normalizer_spec, proto.trainer_spec
    wrong = [
        what
        for what, bad in (
            ("model_type is not BPE", trainer.model_type != 2),
            ("no byte fallback", not trainer.byte_fallback),
            ("a normaliser other than identity", normal.name != "identity"),
            ("no dummy prefix", not normal.add_dummy_prefix),
            ("extra white space is removed", normal.remove_extra_whitespaces),
            ("pieces that are no text", any(not isinstance(piece.piece, str) for piece in proto.pieces)),
        )
        if bad
    ]
    if wrong or not proto.pieces:
        raise ModelError(
            f"{path} is not laid out as ChatGLM's tokenizer: {', '.join(wrong) or 'no pieces'}.",
            zh=f"{path} 与 ChatGLM 的分词器不同：{'、'.join(wrong) or '没有词元'}。",
        )
    return PieceModel(
        tuple(piece.piece for piece in proto.pieces),
        tuple(piece.score for piece in proto.pieces),
        tuple(piece.type for piece in proto.pieces),
    )


def merges_of(model: PieceModel) -> list[tuple[str, str]]:
    """Pairs in the order in which byte-pair encoding joins them: by the score of what they make, best first."""
    ids = {piece: i for i, piece in enumerate(model.pieces) if model.types[i] in (NORMAL, USER_DEFINED)}
    found: list[tuple[float, int, int, str, str]] = []
    for piece, number in ids.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in ids and right in ids:
                found.append((-model.scores[number], ids[left], ids[right], left, right))
    return [(left, right) for *_, left, right in sorted(found)]
