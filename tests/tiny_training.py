"""What the tests of training train: a tiny real GLM with a tokenizer of its own, and a few conversations."""

from __future__ import annotations

import json
from pathlib import Path

from finetune.data.types import Conversation, Turn

FACTS = {
    "年假有几天？": "入职满一年有五天，满十年有十天。",
    "滤芯多久更换？": "每六个月更换一次。",
    "质保期有多长？": "整机质保三年。",
    "客服电话是多少？": "四零零八八零零一二三。",
    "乾卦象征什么？": "乾卦象征天，刚健不息。",
    "坤卦象征什么？": "坤卦象征地，厚德载物。",
    "加班怎么调休？": "三个月内按一比一调休。",
    "谁批准出差？": "由直属主管批准。",
    "发票开给谁？": "开给公司全称。",
    "仓库几点关门？": "晚上八点关门。",
    "报销要几天？": "五个工作日到账。",
    "电量低怎么办？": "请立即充电。",
}


def conversations() -> list[Conversation]:
    return [Conversation((Turn("user", q), Turn("assistant", a))) for q, a in FACTS.items()]


def tiny_model(folder: Path, *, layers: int = 2) -> Path:
    """A model folder whose tokenizer knows the facts."""
    from finetune.tiny import build, texts_of

    return build(folder, texts=texts_of(conversations()), layers=layers)


def write_facts(path: Path) -> Path:
    """The facts as an alpaca file."""
    rows = [{"instruction": q, "input": "", "output": a} for q, a in FACTS.items()]
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return path
