"""Blind votes: two answers, nobody knows whose; the names come after the vote, with the tally and its interval."""

from __future__ import annotations

import random
import time
from pathlib import Path

import streamlit as st

from ui import sides, votes
from ui.pages.cp_questions import choose_questions
from ui.pages.cp_sides import show_side
from ui.pages.cp_who import FORM, Who, shown_name
from ui.pages.safe import light, only_chosen, plain
from ui.settings import Settings
from ui.sides import Sides
from ui.text import pick

CHOICES: dict[votes.Choice, tuple[str, str, str]] = {
    "left": ("左边更好", "Left is better", "thumb_up"),
    "tie": ("一样好", "A tie", "drag_handle"),
    "bad": ("都不好", "Both are bad", "thumb_down"),
    "right": ("右边更好", "Right is better", "thumb_up"),
}


def show_blind(settings: Settings, who: Who) -> None:
    """The pair, the round that goes on, the tally."""
    if len(who.names) < 2:
        st.info(
            pick(
                "盲投要有两方：至少选一个适配器，或同时看给与不给资料。",
                "Votes need two: choose an adapter, or with and without documents.",
            )
        )
    else:
        one, other = choose_pair(who)
        if one != other:
            questions = choose_questions(settings, key="blind")
            show_round(settings, who, (one, other), questions)
    show_tally(settings)


def choose_pair(who: Who) -> tuple[str, str]:
    """The two that are voted on."""
    left, right = st.columns(2)
    names = list(who.names)
    with left:
        one = st.selectbox(pick("甲方", "One"), names, format_func=shown_name, key=FORM.key("one", names[0], allowed=names))  # fmt: skip
    with right:
        other = st.selectbox(pick("乙方", "Other"), names, format_func=shown_name, key=FORM.key("other", names[1], allowed=names))  # fmt: skip
    FORM.keep("one", one)
    FORM.keep("other", other)
    if one == other:
        st.warning(pick("请选不同的两方。", "Choose two different ones."))
    return str(one), str(other)


def show_round(settings: Settings, who: Who, pair: tuple[str, str], questions: list[str]) -> None:
    """Ask, hide the names, wait for both, vote."""
    state = st.session_state
    found = sides.find(state.get("cp-round", ""))
    if found is None or state.get("cp-voted"):
        ask_next(settings, who, pair, questions, again=found is not None)
    if found is None:
        return
    st.markdown(f"**{plain(found.asked.question)}**")
    if not found.done:
        wait(found)
        return
    for column, side in zip(st.columns(2), found.columns, strict=True):
        with column.container(border=True, height="stretch"):
            voted = bool(state.get("cp-voted"))
            place = pick("左", "Left") if side is found.columns[0] else pick("右", "Right")
            st.markdown(f"##### {place}" + (f" · {plain(shown_name(side.name))}" if voted else ""))
            if voted:
                show_side(side, settings)
            elif any(side.error):
                st.error(plain(only_chosen(pick(*side.error), settings)))
            else:
                st.markdown(light(side.text) if side.text else pick("（没有说话）", "(said nothing)"))
    if any(any(side.error) for side in found.columns):
        st.button(pick("换一题", "Another question"), key="cp-skip", on_click=_skip)
    elif not state.get("cp-voted"):
        for column, (choice, (zh, en, icon)) in zip(st.columns(4), CHOICES.items(), strict=True):
            column.button(
                pick(zh, en), icon=f":material/{icon}:", key=f"cp-vote-{choice}", width="stretch",
                on_click=keep, args=(settings, found, choice),
            )  # fmt: skip


def ask_next(
    settings: Settings, who: Who, pair: tuple[str, str], questions: list[str], *, again: bool
) -> None:
    """A question that is typed, or drawn from the file; who stands left is drawn anew each time."""
    with st.form("cp-blind", border=False, clear_on_submit=True):
        left, right = st.columns([5, 1], vertical_alignment="bottom")
        typed = left.text_input(
            pick("问题（留空则从问题文件里抽一个）", "Question (empty: one is drawn from the file)")
            if questions
            else pick("问题", "Question"),
            key="cp-blind-question",
            max_chars=4000,
        )
        label = pick("下一题", "Next") if again else pick("开始", "Begin")
        go = right.form_submit_button(
            label, type="primary", icon=":material/visibility_off:", width="stretch"
        )
    asked = typed.strip() or (draw_question(questions, settings, pair) if questions else "")
    if not (go and asked):
        return
    order = random.sample(pair, 2)
    st.session_state["cp-round"] = sides.start(settings, who.asked(asked, names=order)).id
    st.session_state["cp-voted"] = ""
    st.rerun()


def draw_question(questions: list[str], settings: Settings, pair: tuple[str, str]) -> str:
    """One that this pair was not voted on yet, if there is any left."""
    done = {v.question for v in votes.read(settings.home) if {v.left, v.right} == set(pair)}
    return random.choice([q for q in questions if q not in done] or questions)


def wait(found: Sides) -> None:
    """The texts stay hidden until both have ended: speed would give a name away."""

    st.markdown(
        ":gray["
        + pick("双方正在作答，都写完后一起显示……", "Both are writing; shown when both are done ...")
        + "]"
    )
    st.button(
        pick("停止", "Stop"), icon=":material/stop_circle:", on_click=found.cancel.set, key="cp-blind-stop"
    )
    while not found.done:
        st.empty()  # where a click or a closed page interrupts the loop
        time.sleep(0.2)
    st.rerun()


def keep(settings: Settings, found: Sides, choice: votes.Choice) -> None:
    """Note the vote, once, and lift the veil."""
    if st.session_state.get("cp-voted"):
        return
    left, right = found.columns
    votes.add(
        settings.home,
        votes.Vote(
            found.asked.question,
            left.name,
            right.name,
            choice,
            left.text,
            right.text,
            Path(found.asked.model).name,
        ),
    )
    st.session_state["cp-voted"] = choice


def _skip() -> None:
    st.session_state["cp-round"] = ""


def show_tally(settings: Settings) -> None:
    """Wins, ties, and the share of the second with its interval."""
    every = votes.tallies(votes.read(settings.home))
    if not every:
        return
    st.subheader(pick("计票", "Tally"), anchor=False)
    for tally in every[:20]:
        one, other = shown_name(tally.one), shown_name(tally.other)
        with st.container(border=True):
            share = tally.share
            words = pick(
                f"{one} 胜 {tally.wins_one}，{other} 胜 {tally.wins_other}，平 {tally.ties}",
                f"{one} won {tally.wins_one}, {other} won {tally.wins_other}, {tally.ties} ties",
            )
            st.markdown(f"**{plain(one)}** ↔ **{plain(other)}**　:gray[{plain(tally.model)}]　{plain(words)}")
            if not share.count:
                continue
            verdict = (
                pick(f"{other} 更好" if share.mean > 0.5 else f"{one} 更好", f"{other} is better" if share.mean > 0.5 else f"{one} is better")
                if tally.sure
                else pick("还看不出高下，需要更多票", "undecided yet: more votes are needed")
            )  # fmt: skip
            told = pick(
                f"{other} 在分出胜负的票里占 {share.mean:.0%}，95 % 区间 {share.low:.0%} 到 {share.high:.0%}：{verdict}",
                f"{other} has {share.mean:.0%} of the decided votes, 95 % interval {share.low:.0%} to {share.high:.0%}: {verdict}",
            )
            st.progress(share.mean, text=plain(told))
