"""Choices of a page that outlive a visit to another page: Streamlit forgets the state of what it does not draw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st


class Form:
    """Named choices of one page in this session."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def values(self) -> dict[str, Any]:
        """What was chosen so far, by name."""
        found: dict[str, Any] = st.session_state.setdefault(f"form-{self.name}", {})
        return found

    def key(self, name: str, default: Any, *, allowed: Any = None) -> str:
        """The widget's key, its state set to what was chosen before (if it is still `allowed`), else to `default`."""
        full = f"{self.name}-{name}"
        before = st.session_state.get(full, self.values.get(name, default))
        if allowed is not None:
            before = (
                [one for one in before if one in allowed]
                if isinstance(before, list)
                else before
                if before in allowed
                else default
            )
        if full not in st.session_state or st.session_state[full] != before:
            st.session_state[full] = before
        return full

    def keep(self, name: str, value: Any) -> Any:
        """Note what the widget gave back, and give it on."""
        self.values[name] = value
        return value

    def put(self, values: Mapping[str, Any]) -> None:
        """Choose for the person: only in a callback, before the widgets are drawn."""
        for name, value in values.items():
            self.values[name] = value
            st.session_state[f"{self.name}-{name}"] = value
