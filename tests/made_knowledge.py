"""Small knowledge bases of our own sentences, with a static embedder made on the spot. Imported by tests."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from kb.embed import EmbedderConfig, open_embedder
from kb.knowledge import KnowledgeBase
from kb.split import split
from kb.store import text_digest
from kb.types import Block, Document, Embedder, LoadedFile, Page

TOPICS = {
    "请假": "员工请病假须在当天上午十点前通知主管，并在三日内交医院证明。事假每年不超过十五天，超过的部分不发工资。",
    "报销": "出差住宿凭发票报销，一线城市每晚不超过五百元。打车费用需要附行程单，经理签字后由财务在每月二十日付款。",
    "净水": "净水机的滤芯每六个月更换一次。指示灯变红表示滤芯到期，按住复位键五秒即可清零。水温默认四十五度。",
    "年会": "年会定于腊月十八在总部礼堂举行，各部门准备一个节目。抽奖的一等奖是一辆自行车，奖品由行政部采购。",
    "仓库": "仓库的温度保持在五到二十五度，湿度不高于百分之六十。易燃品单独存放，钥匙由两名保管员分别保管。",
    "培训": "新员工入职第一周参加安全培训，考试满分一百分，八十分及格。不及格者可以补考一次，补考由人事部安排。",
    "食堂": "食堂早餐七点开门，午餐提供两荤两素一汤。清真窗口在二楼，餐费每月从饭卡里扣除，余额可以在离职时退还。",
    "车辆": "公司班车每天早上七点二十从地铁站出发，途经科技园和体育馆。私车公用每公里补贴一元，过路费实报实销。",
    "合同": "劳动合同期限为三年，试用期六个月。提前解除合同的一方应当提前三十日书面通知对方，并办理工作交接。",
    "设备": "打印机卡纸时先关掉电源，打开后盖取出纸张。错误代码 E3 表示墨盒没有装好，代码 E7 表示需要联系售后。",
}
"""Topic -> a passage about it; no two share a fact."""


def embedder_folder(folder: Path, *, seed: int = 3, dimensions: int = 64) -> Path:
    """A static model whose tokens are the characters of TOPICS and ASCII, with random rows."""
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers

    characters = sorted(set("".join(TOPICS.values())) | {chr(i) for i in range(33, 127)})
    vocab = {c: i for i, c in enumerate(["[UNK]", *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    body = folder / "0_StaticEmbedding"
    body.mkdir(parents=True)
    rows = np.random.default_rng(seed).standard_normal((len(vocab), dimensions)).astype(np.float32)
    rows[0] = 0
    save_file({"embedding.weight": rows}, body / "model.safetensors")
    tokenizer.save(str(body / "tokenizer.json"))
    (folder / "1_Normalize").mkdir()
    base = "sentence_transformers.models"
    modules = [
        {"idx": 0, "name": "0", "path": "0_StaticEmbedding", "type": f"{base}.StaticEmbedding"},
        {"idx": 1, "name": "1", "path": "1_Normalize", "type": f"{base}.Normalize"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    return folder


def static_embedder(folder: Path, *, seed: int = 3, metric: str = "cosine") -> Embedder:
    """Opened from a folder made by `embedder_folder`."""
    made = embedder_folder(folder, seed=seed)
    return open_embedder(EmbedderConfig(model=str(made), metric=metric))  # type: ignore[arg-type]


def knowledge(home: Path, name: str, documents: dict[str, str], *, embedder: Embedder) -> KnowledgeBase:
    """A knowledge base of text files, by the product's own splitter, store and caches."""
    kb = KnowledgeBase.create(home, name, embedder=embedder)
    for file, text in documents.items():
        page = Page(1, text, (Block("text", 0, len(text)),))
        passages = split(LoadedFile(Path(file), "txt", (page,)), counter=embedder)
        texts = [c.text for p in passages for c in p.chunks]
        rows = embedder.encode_passages(texts).astype(np.float16)
        data = text.encode()
        kb.store.put_document(
            Document(
                0, file, "txt", hashlib.blake2b(data, digest_size=32).hexdigest(), len(data), 1, 0, 0, "ok"
            ),
            version="test",
            stat="",
            pages=[page],
            passages=passages,
            embedder=embedder.fingerprint,
            vectors={text_digest(t): row for t, row in zip(texts, rows, strict=True)},
        )
    kb.refresh_caches()
    return kb


def topics(home: Path, name: str, *, embedder: Embedder) -> KnowledgeBase:
    """TOPICS, one file each."""
    return knowledge(home, name, {f"{k}.txt": v for k, v in TOPICS.items()}, embedder=embedder)
