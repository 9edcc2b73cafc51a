"""问答: the conversation. Answers are written by `ui.answering`, whoever looks; this page shows how far they are."""

from __future__ import annotations

import streamlit as st

from kb.errors import ZhiwenError
from ui.answering import LiveAnswer, growing, live_answer, messages_before, start_answer
from ui.history import Talk, TurnRecord
from ui.opened import anything_indexed, opened
from ui.pages import conversations, first_run, frame, job_view
from ui.pages.ask_options import Chosen, begin, choose
from ui.pages.citation import show_sources
from ui.pages.safe import light, only_chosen, plain
from ui.pages.sentences import answer_markdown, notes
from ui.pages.trace import show_trace
from ui.pages.votes import show_vote
from ui.settings import Settings
from ui.suggest import first_questions, hint
from ui.text import pick


def page() -> None:
    """The page."""
    settings = frame.settings_or_stop()
    with frame.explained(settings):
        if not anything_indexed(settings.home):
            first_run.show(settings)
            return
        talk_id = conversations.current(settings)
        conversations.side_bar(settings, talk_id)
        chosen = choose(settings)
        show_talk(settings, talk_id, chosen)


def show_talk(settings: Settings, talk_id: str, chosen: Chosen) -> None:
    """What was said, the answer on its way, and the field for the next question."""
    history = frame.history(settings)
    talk = history.load(talk_id)
    live = live_answer(talk_id)
    if job := job_view.running_index(settings):
        st.page_link(
            st.session_state["page_of"]["knowledge"],
            label=pick(f"{plain(job.title)}……查看进度", f"{plain(job.title)} ... see how far"),
            icon=":material/hourglass_top:",
        )
    if talk is None or not talk.turns:
        greet(settings, talk_id, chosen)
    else:
        for turn in talk.turns:
            if live is None or turn.number != live.turn:
                show_turn(settings, talk, turn)
    asked = st.chat_input(hint(), key="question", disabled=live is not None or not chosen.kbs, max_chars=4000)
    if asked and asked.strip() and send(settings, talk_id, asked.strip(), chosen) is not None:
        st.rerun()
    if live is not None and talk is not None:
        show_live(live, talk.turns[live.turn].question)
        st.rerun()


def greet(settings: Settings, talk_id: str, chosen: Chosen) -> None:
    """An empty conversation: what may be asked."""
    st.title(pick("问点什么？", "What would you like to know?"))
    if not chosen.kbs:
        st.info(pick("请在上方“回答设置”里至少选一个知识库。", "Choose at least one knowledge base above."))
        return
    questions = first_questions(opened(settings.home, chosen.kbs))
    if questions:
        st.caption(pick("从文档里挑的几个问题：", "A few questions from the documents:"))
    for number, question in enumerate(questions):
        st.button(
            plain(question),
            key=f"suggestion-{number}",
            on_click=send,
            args=(settings, talk_id, question, chosen),
            icon=":material/chat_bubble:",
            type="secondary",
            width="stretch",
        )


def send(settings: Settings, talk_id: str, question: str, chosen: Chosen) -> LiveAnswer | None:
    """Ask; the answer is written in a thread of its own."""
    history = frame.history(settings)
    before = messages_before(history.load(talk_id))
    st.query_params["c"] = talk_id
    try:
        return start_answer(
            history, talk_id, question, chosen=chosen.kept(), begin=begin(settings, question, chosen, before)
        )
    except ZhiwenError as error:
        frame.show_error(error, settings)
        return None


def show_live(live: LiveAnswer, question: str) -> None:
    """The answer as it grows. Leaving the page, or stopping, interrupts this loop, not the answer."""
    with st.chat_message("user", avatar=":material/person:"):
        st.markdown(plain(question))
    with st.chat_message("assistant", avatar=":material/menu_book:"):
        status, text = st.empty(), st.empty()
        st.button(
            pick("停止", "Stop"), icon=":material/stop_circle:", on_click=live.cancel.set, key="stop-answer"
        )
        for written in growing(live):
            status.caption(f":material/more_horiz: {plain(pick(*live.status))}")
            text.markdown(light(written))


def show_turn(settings: Settings, talk: Talk, turn: TurnRecord) -> None:
    """A question with what came of it."""
    with st.chat_message("user", avatar=":material/person:"):
        st.markdown(plain(turn.question))
    with st.chat_message("assistant", avatar=":material/menu_book:"):
        if turn.answer is None:
            show_broken(settings, turn)
            return
        st.markdown(answer_markdown(turn.answer))
        for note in notes(turn.answer):
            st.caption(plain(note))
        key = f"{talk.id}-{turn.number}"
        show_sources(settings, turn.answer, key=key)
        with st.container(horizontal=True, vertical_alignment="center"):
            show_vote(frame.history(settings), talk, turn, key=key)
            show_trace(turn.answer, key=key)


def show_broken(settings: Settings, turn: TurnRecord) -> None:
    """What there is of an answer that did not come to its end."""
    if turn.written:
        st.markdown(light(turn.written))
        st.caption(
            pick("回答在这里中断，已写下的都在。", "The answer broke off here; all that was written is kept.")
        )
    if any(turn.broken):
        st.error(plain(only_chosen(pick(*turn.broken), settings)), icon=":material/error:")
    elif not turn.written:
        st.caption(pick("这个问题没有得到回答（程序中途退出了）。", "Not answered: the program ended."))
