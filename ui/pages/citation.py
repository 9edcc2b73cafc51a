"""The sources under an answer: one button each, which opens the passage with its words marked, beside the page."""

from __future__ import annotations

from typing import Any

import streamlit as st

from kb.errors import LoadError
from ui.pages.safe import marked, only_chosen, plain
from ui.place import marked_page, page_ranges
from ui.settings import Settings
from ui.text import pick

BEFORE, AFTER = 120, 200
"""Characters shown around the cited words."""


def show_sources(settings: Settings, answer: dict[str, Any], *, key: str) -> None:
    """Buttons of the citations, or after a refusal of the nearest passages."""
    places = answer["citations"] if not answer["refused"] else answer["nearest"]
    if not places:
        return
    if answer["refused"]:
        st.caption(pick("最接近的内容，点开看看是不是要找的：", "The nearest passages; open one to see whether it is what you meant:"))  # fmt: skip
    with st.container(horizontal=True, gap="small"):
        for number, place in enumerate(places):
            mark = f"\\[{place['number']}\\] " if "number" in place else ""
            if st.button(
                mark + plain(where(place)), key=f"source-{key}-{number}", icon=":material/description:", help=plain(preview(place))
            ):  # fmt: skip
                open_place(settings, place)


def where(place: dict[str, Any]) -> str:
    """File and page."""
    name = str(place["document"]).rsplit("/", 1)[-1]
    return pick(f"{name} 第 {place['page']} 页", f"{name} p.{place['page']}") if paged(place) else name


def paged(place: dict[str, Any]) -> bool:
    """Whether its kind of file has pages worth naming."""
    return place.get("kind") in ("pdf", "pptx")


def preview(place: dict[str, Any]) -> str:
    """The first words of what is cited."""
    text = " ".join(str(place.get("quote") or place["passage"][place["start"] : place["end"]]).split())
    return text[:80] + ("…" if len(text) > 80 else "")


def open_place(settings: Settings, place: dict[str, Any]) -> None:
    """The dialog: passage left, page right."""

    def dialog() -> None:
        show_place(settings, place)

    st.dialog(plain(where(place)), width="large")(dialog)()


def show_place(settings: Settings, place: dict[str, Any]) -> None:
    """A passage with the cited words marked; for a PDF the picture of the page beside it."""
    start, end = int(place["start"]), int(place["end"])
    pages = sorted(page_ranges(place, start, end)) or [int(place["page"])]
    picture = place.get("kind") == "pdf"
    left, right = st.columns([4, 5]) if picture else (st.container(), None)
    with left:
        path = [str(place["kb"]), *[h for h in place["headings"] if h]]
        st.caption(plain(" > ".join(path)))
        text = str(place["passage"])
        low, high = around(text, start, end)
        st.markdown(("…\n\n" if low else "") + marked(text[low:high], [(start - low, end - low)]))
        if low or high < len(text):
            with st.expander(pick("整段", "The whole passage")):
                st.markdown(marked(text, [(start, end)]))
    if right is not None:
        with right:
            for page in pages[:2]:
                show_page(settings, place, page, start, end)


def around(text: str, start: int, end: int) -> tuple[int, int]:
    """The lines about the cited words: what is read first."""
    low = text.rfind("\n", 0, max(0, start - BEFORE)) + 1 if start > BEFORE else 0
    low = low if low > start - 3 * BEFORE else start - BEFORE
    high = text.find("\n", min(len(text), end + AFTER))
    return max(0, low), high if 0 <= high < end + 3 * AFTER else min(len(text), end + 3 * AFTER)


def show_page(settings: Settings, place: dict[str, Any], page: int, start: int, end: int) -> None:
    """The picture, or why there is none."""
    try:
        picture = marked_page(settings.home, place, page=page, start=start, end=end)
    except LoadError as error:
        st.info(plain(only_chosen(pick(error.zh, error.message), settings)), icon=":material/image_not_supported:")  # fmt: skip
        return
    st.image(picture, caption=pick(f"第 {page} 页", f"page {page}"), width="stretch")
