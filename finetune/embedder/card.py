"""The model card, written beside the weights (README.md of the model folder)."""

from __future__ import annotations

from dataclasses import asdict

from finetune.embedder.recipe import Recipe

_HEAD = """---
language: [zh, en]
license: cc-by-sa-4.0
library_name: sentence-transformers
pipeline_tag: sentence-similarity
---
# zhiwen-embed-zh

"""


Table = dict[str, dict[str, dict[str, float]]]
"""Set -> way -> measure -> value."""
_SCORES = "\n## Scores 成绩\n"


def with_scores(card: str, table: Table) -> str:
    """The card with its scores section replaced by this table."""
    lines = ["", "| set | way | R@1 | R@5 | R@10 | MRR@10 |", "| --- | --- | --- | --- | --- | --- |"]
    for name, ways in table.items():
        for way, values in ways.items():
            lines.append(
                f"| {name} | {way} | " + " | ".join(f"{value:.3f}" for value in values.values()) + " |"
            )
    lines += [
        "",
        "None of these sets was trained on (STARD: its dev questions; its articles are public law, which is in the training",
        "text). Passages of the whole file pooled, chunks of at most 180 characters, best chunk counts. `lexical` is BM25 over",
        "characters and bigrams; `both` adds the cosine to BM25 over the question's best BM25, weight 1.",
        "The settings above and that weight were chosen by looking at these sets, except cail-test and afqmc, which nobody had",
        "looked at before.",
        "这些集合均未用于训练；除 cail-test 与 afqmc 外，配方是看着它们选的，别处的成绩会略低。",
    ]
    return card.split(_SCORES)[0] + _SCORES + "\n".join(lines) + "\n"


def text(recipe: Recipe, *, quick: bool) -> str:
    """The card in Markdown: what it is, recipe, data and licences, limits. English, then Chinese."""
    if quick:
        return (
            _HEAD
            + "A toy made with `--quick` to see that training works. Not for use. 仅供试运行，请勿使用。\n"
        )
    settings = "\n".join(
        f"- {k}: {v}" for k, v in {**asdict(recipe), **asdict(recipe.train)}.items() if k != "train"
    )
    return _HEAD + _BODY.format(tokens=f"{recipe.tokens:,}", width=recipe.train.dimensions, settings=settings)


_BODY = """A static embedding for Chinese retrieval: one row a token ({tokens} x {width}, float16), a text is the mean of its
rows at unit length. Made for zhiwen, where it stands beside a lexical index and is used when no larger embedder is on
the machine. Reads with `SentenceTransformer(folder)`, or with `tokenizers` and numpy alone. No prefix, no length limit;
cosine. Traditional characters are folded to simplified ones by the tokenizer.

## Recipe

Trained from nothing by `python -m finetune.embedder train` on one CPU thread; no weights of other models went in.

1. Vocabulary: words of the training text as jieba cuts them, jieba's word list for everyday words that the text lacks,
   all characters of GB2312, letters, digits. A unigram tokenizer takes the most likely path.
2. A row = gain x (own vector + mean of its characters' vectors). The gain starts as a power of inverse document
   frequency, the vectors as random ones. The sum is folded into the row, so that a word never met in training still lies
   near its characters.
3. Contrastive training both ways over batches of one source each, passages of the same text never negatives of each
   other, tokens dropped, words exchanged for synonyms (a list of ours, `finetune/embedder/synonyms.txt`).

{settings}

## Data and licences

| data | used as | licence |
| --- | --- | --- |
| CMRC 2018 training set (Cui et al., HFL) | question -> chunk, inverse cloze | CC BY-SA 4.0 |
| DRCD dev set (Delta Research Center) | question -> chunk, inverse cloze | CC BY-SA 3.0 |
| SQuAD 1.1 and 2.0 dev sets (Rajpurkar et al.), translated to Chinese | question -> chunk; two translations of one question as paraphrases | CC BY-SA 4.0 |
| STS-B in Chinese and bge_finetune_data, from text2vec | pairs of high similarity | Apache-2.0 |
| STARD (THUIR), training questions only | lay question -> article of law | MIT |
| Chinese statutes | chapter heading -> article, inverse cloze | not copyrightable |
| Four classic novels | inverse cloze | public domain |
| jieba's word list; OpenCC's character table | vocabulary; folding | MIT; Apache-2.0 |
| synonyms.txt | pairs, exchanged words | ours |

The weights are shared under CC BY-SA 4.0, with attribution to the makers of the sets above.

## Limits

It averages words: order and negation do not count (狗咬人 and 人咬狗 are nearly the same). Words that hardly occur in the
training text are matched by form, not by meaning. English is matched by words only. It is not a replacement for
text2vec or bge; use one of those for meaning-only search. A text of punctuation alone has one fixed meaningless vector.

## 中文说明

知问自带的中文静态向量模型：每个词元一行向量，文本的向量是各行的平均（单位长度），可用 sentence-transformers 加载，也可只用
numpy 与 tokenizers 加载。完全由本仓库的脚本从零训练，训练数据与许可见上表（CMRC、DRCD、SQuAD 为 CC BY-SA，特此署名），权重以
CC BY-SA 4.0 发布。局限：不看词序与否定；训练文本里少见的词只按字形匹配；只求语义的检索请换用 text2vec 或 bge。
"""
