"""Try a search: hits with their scores, and which would be refused."""

from __future__ import annotations

import streamlit as st

from kb.knowledge import KnowledgeBase
from kb.types import Hit
from ui import wiring
from ui.pages import frame
from ui.pages.safe import marked, plain
from ui.settings import Settings
from ui.show import LEGS, own_text
from ui.text import pick


def show_search(settings: Settings, kb: KnowledgeBase) -> None:
    """The field, and what is found."""
    words = st.text_input(
        pick("检索", "Search"), key=f"search-{kb.name}", placeholder=pick("问题或关键词", "question or key words"), max_chars=4000
    )  # fmt: skip
    if not words.strip():
        return
    with frame.explained(settings):
        result = wiring.find(settings, words.strip(), kbs=[kb])
        if not result.hits:
            st.info(pick("没有找到。", "Nothing found."))
            return
        best, threshold = result.hits[0].confidence, result.threshold
        said = pick(
            f"最高可信度 {best:.2f}，拒答阈值 {threshold:.2f}："
            + ("会回答" if result.answerable else "会拒答"),
            f"highest confidence {best:.2f}, threshold {threshold:.2f}: "
            + ("answered" if result.answerable else "refused"),
        )
        st.caption(
            plain(
                said
                + pick(
                    f"，用时 {sum(result.seconds.values()):.2f} 秒", f", {sum(result.seconds.values()):.2f} s"
                )
            )
        )
        for number, hit in enumerate(result.hits, start=1):
            show_hit(number, hit)


def show_hit(number: int, hit: Hit) -> None:
    """Where, scores, text with the best piece marked."""
    legs = "　".join(
        f"{pick(*LEGS[leg.leg])} {'#' + str(leg.rank) if leg.rank else '–'} ({leg.score:.3f})"
        for leg in hit.legs
    )
    with st.container(border=True):
        st.markdown(f"**{number}. {plain(hit.where)}**")
        st.caption(
            plain(
                pick(
                    f"可信度 {hit.confidence:.2f}　总分 {hit.score:.3f}　",
                    f"confidence {hit.confidence:.2f}　score {hit.score:.3f}　",
                )
                + legs
            )
        )
        text = hit.passage.text
        if len(text) > 600:
            st.markdown(plain(own_text(hit)[:600]))
        else:
            st.markdown(marked(text, [(hit.chunk.start, hit.chunk.end)]))
