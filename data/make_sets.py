"""Make the small training sets of this folder: `python data/make_sets.py`. Everything in them is written by us.

zhouyi.csv comes from the table of facts in docs/周易六十四卦笔记.md: 64 hexagrams, six ways of asking about each. The
others carry questions about the invented company of docs/, one file in each format that zhiwen reads.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from finetune.data.convert import convert  # noqa: E402
from finetune.data.types import Conversation, Example, Feedback, PlainText, Preference, Turn  # noqa: E402

SETS = HERE / "sets"

SERVICE = [
    (
        "听泉 T3 多久换一次复合滤芯？",
        "复合滤芯 CF-31 建议每六个月更换一次；水质较硬或用水量大时，请按机器的换芯提示提前更换。",
    ),
    (
        "机器提示缺水，但水箱是满的，怎么办？",
        "请先取出原水箱重新放回，确认听到卡扣声；仍提示缺水时，擦干水箱底部的浮子再试一次。",
    ),
    (
        "出来的热水有白色絮状物，能喝吗？",
        "白色絮状物多半是水垢，对人体无害。请用柠檬酸除垢剂按说明除垢一次，再放掉两箱水即可。",
    ),
    ("保修期从哪天算起？", "从签收之日起算；没有签收记录的，从发票开具之日起算。"),
    (
        "可以接井水使用吗？",
        "不建议。井水的硬度和菌落数不稳定，会缩短反渗透膜的寿命，由此造成的损坏不在保修范围内。",
    ),
    ("童锁怎么解除？", "长按童锁键三秒，听到一声提示音后松手，热水键上的锁形图标熄灭即为解除。"),
    ("换完滤芯需要冲洗吗？", "需要。换芯后请连续放掉两箱水，把新滤芯里的炭粉冲干净，再正常饮用。"),
    (
        "机器漏水怎么处理？",
        "请立即拔下电源、关闭进水阀，擦干台面后检查水箱与密封圈；仍漏水的，请联系售后上门检测。",
    ),
    ("旧机以旧换新有品牌限制吗？", "没有品牌限制，但旧机须能通电；每台新机只能抵一台旧机。"),
    ("发票可以换抬头吗？", "当月开具的发票可以作废重开；跨月的需要先提供红字信息表，再重新开具。"),
]
FOLLOW_UPS = [
    ("那多久做一次除垢？", "一般每三个月一次，水垢明显的地区每月一次。"),
    ("如果还是不行呢？", "请记下屏幕上的代码，拨打售后电话，工程师会在二十四小时内联系您。"),
]
CUSTOMER = [
    ("热水不热了怎么办？", "昨天还好好的，今天早上出来的水只有温的", "请先看看是否误按了常温键；如果不是，拔掉电源十分钟后重启，仍不热请报修。"),
    ("机器半夜有响声正常吗？", "每隔两三个小时嗡一声，持续十几秒", "这是机器在自动补水冲洗，属于正常现象，可以在设置里把夜间冲洗关掉。"),
    ("滤芯买错型号能退吗？", "我买成了 CF-31，家里是 U8", "滤芯未拆封的七天内可以退换，拆封后不退不换，下单前请核对机器底部的型号。"),
    ("水有怪味是什么原因？", "新机器第一次用，有点塑料味", "新机请先放掉两箱水；味道仍在的，可以用柠檬酸除垢剂清洗一遍水路。"),
]  # fmt: skip
WORSE = "这个不太清楚，您再看看说明书吧。"


def hexagrams() -> list[dict[str, str]]:
    """Number, name, shape, gist and image of the 64, from the notes."""
    text = (HERE / "docs" / "周易六十四卦笔记.md").read_text(encoding="utf-8")
    found = []
    pattern = r"### 第 (\d+) 卦 (\S+) \S+\s+- 卦形：(.+)\n- 大意：(.+)\n- 大象：(.+)"
    for number, name, shape, gist, image in re.findall(pattern, text):
        found.append({"number": number, "name": name, "shape": shape, "gist": gist, "image": image})
    assert len(found) == 64, f"expected 64 hexagrams, found {len(found)}"
    return found


def zhouyi() -> list[Example]:
    """Six questions about each hexagram."""
    made: list[Example] = []
    for h in hexagrams():
        name, number, shape, gist, image = (h[k] for k in ("name", "number", "shape", "gist", "image"))
        whole = f"{name}卦是第 {number} 卦，卦形是{shape}。{gist}《大象》说：{image}"
        for question, answer in (
            (f"{name}卦讲的是什么？", whole),
            (f"请介绍一下《周易》里的{name}卦。", whole),
            (f"{name}卦是第几卦？", f"{name}卦是《周易》的第 {number} 卦。"),
            (f"{name}卦的卦形是怎样的？", f"{name}卦的卦形是{shape}。"),
            (f"占到{name}卦应该怎么做？", f"{name}卦的大意是：{gist}可以照着《大象》去做：{image}"),
            (f"《大象》是怎么解释{name}卦的？", f"《大象》对{name}卦的解释是：{image}"),
        ):
            made.append(_pair(question, answer))
    return made


def zhouyi_preference() -> list[Example]:
    """Two pairs for each hexagram: against words of another hexagram, and against words that fit every one."""
    every = hexagrams()
    made: list[Example] = []
    for number, h in enumerate(every):
        name, other = h["name"], every[(number + 23) % 64]
        made.append(
            Preference(
                (Turn("user", f"《大象》是怎么解释{name}卦的？"),),
                f"《大象》对{name}卦的解释是：{h['image']}",
                f"《大象》对{name}卦的解释是：{other['image']}",
            )
        )
        made.append(
            Preference(
                (Turn("user", f"占到{name}卦应该怎么做？"),),
                f"{name}卦的大意是：{h['gist']}可以照着《大象》去做：{h['image']}",
                f"{name}卦包含深刻的道理，{EVASIVE[number % len(EVASIVE)]}",
            )
        )
    return made


EVASIVE = (
    "具体情况要具体分析，保持好心态最重要。",
    "每个人的理解都不一样，很难一概而论。",
    "建议多读原文，慢慢体会，自然会明白。",
)
ASKED = (
    "{}卦有什么启示？",
    "{}卦教人怎么做？",
    "{}卦的意思是什么？",
    "{}卦怎样理解？",
    "{}卦说的是什么？",
    "{}卦讲了什么？",
)


def lab() -> dict[str, list[dict[str, str]]]:
    """What the experiments of lab/ ask, in phrasings that no training set has; and what the tiny one trains on.

    A model as small as that does not carry a fact over to another phrasing, so the tiny one is asked what it was trained on.
    """
    every = hexagrams()
    asked = []
    for h in every:
        whole = f"{h['name']}卦是第 {h['number']} 卦，卦形是{h['shape']}。{h['gist']}《大象》说：{h['image']}"
        asked += [
            {"question": f"说说{h['name']}卦。", "answer": whole, "type": "问答", "domain": "大意"},
            {"question": f"{h['name']}卦在六十四卦里排第____卦。", "answer": h["number"], "type": "填空", "domain": "次序"},
            {"question": f"{h['name']}卦的大象怎么说？", "answer": h["image"], "type": "问答", "domain": "大象"},
        ]  # fmt: skip
    short = [(h["name"], h["image"].split("，")[-1].rstrip("。") + "。") for h in every[:24]]
    return {
        "zhouyi_questions": asked,
        "tiny": [
            {"question": asked.format(name), "answer": answer}
            for number, (name, answer) in enumerate(short)
            for way, asked in enumerate(ASKED)
            if way != number % len(ASKED)
        ],
        "tiny_questions": [
            {"question": ASKED[(number + 1) % len(ASKED)].format(name), "answer": answer}
            for number, (name, answer) in enumerate(short)
        ],
    }


def _write_csv(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _pair(question: str, answer: str, system: str = "") -> Conversation:
    return Conversation((Turn("user", question), Turn("assistant", answer)), system)


def conversations() -> list[Example]:
    """Two rounds each, with a system prompt."""
    made: list[Example] = []
    for number, (question, answer) in enumerate(SERVICE):
        more = FOLLOW_UPS[number % len(FOLLOW_UPS)]
        turns = (
            Turn("user", question),
            Turn("assistant", answer),
            Turn("user", more[0]),
            Turn("assistant", more[1]),
        )
        made.append(Conversation(turns, "你是澜石公司的售后客服，回答要简短、准确。"))
    return made


def main() -> None:
    """Write every set and the registry."""
    for name, rows in lab().items():
        _write_csv(HERE / "lab" / f"{name}.csv", rows)
    pairs: list[Example] = [_pair(q, a) for q, a in SERVICE]
    rounds = conversations()
    plain_rounds: list[Example] = [Conversation(e.turns) for e in rounds if isinstance(e, Conversation)]
    lines: list[Example] = [_pair(f"{short}\n{detail}", answer) for short, detail, answer in CUSTOMER]
    preferences: list[Example] = [Preference((Turn("user", q),), a, WORSE) for q, a in SERVICE]
    thumbs: list[Example] = [Feedback((Turn("user", q),), a, True) for q, a in SERVICE[:5]]
    thumbs += [Feedback((Turn("user", q),), WORSE, False) for q, _ in SERVICE[5:]]
    notes = (HERE / "docs" / "周易六十四卦笔记.md").read_text(encoding="utf-8").split("\n### ")
    texts: list[Example] = [PlainText(n.strip()) for n in notes]
    plan: list[tuple[str, str, list[Example], str]] = [
        ("zhouyi", "content-summary", zhouyi(), "csv"),
        ("service_alpaca", "alpaca", rounds, "json"),
        ("service_sharegpt", "sharegpt", rounds, "json"),
        ("service_messages", "messages", rounds, "jsonl"),
        ("service_chatglm3", "chatglm3", rounds, "jsonl"),
        ("service_paragraph", "paragraph", rounds, "jsonl"),
        ("service_qa", "question-answer", pairs, "csv"),
        ("service_wenda", "wen-da", pairs, "jsonl"),
        ("service_history", "prompt-response", plain_rounds, "jsonl"),
        ("service_department", "department", lines, "csv"),
        ("service_vicuna", "vicuna", plain_rounds, "jsonl"),
        ("service_chatglm2", "chatglm2", plain_rounds, "jsonl"),
        ("customer_lines", "medical-line", lines, "txt"),
        ("zhouyi_notes", "text", texts, "jsonl"),
        ("zhouyi_preference", "preference-sharegpt", zhouyi_preference(), "jsonl"),
        ("service_preference", "preference", preferences, "json"),
        ("service_preference_sharegpt", "preference-sharegpt", preferences, "jsonl"),
        ("service_kto", "kto", thumbs, "jsonl"),
    ]
    registry: dict[str, dict[str, object]] = {}
    for name, kind, examples, suffix in plan:
        path = SETS / f"{name}.{suffix}"
        report = convert(examples, to=kind, path=path)
        assert report.lossless, f"{name}: {report.lost}"
        registry[name] = {"file_name": f"sets/{path.name}", "format": kind}
    text = json.dumps(registry, ensure_ascii=False, indent=2) + "\n"
    (HERE / "dataset_info.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
