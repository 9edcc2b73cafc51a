"""Settings: precedence, and every bad value is named with its place and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from kb.errors import SettingsError
from ui.cli import main
from ui.settings import allowed_values, known_keys, load_settings
from ui.settings_file import write_setting


def write(home: Path, text: str) -> None:
    (home / "zhiwen.toml").write_text(text, encoding="utf-8")


def test_defaults_need_no_file(home: Path) -> None:
    settings = load_settings(environ={"ZHIWEN_HOME": str(home)})
    assert settings.home == home and settings.models == home / "models"
    assert settings.generator.kind == "none" and settings.search.limit == 8 and not settings.hub.offline
    assert settings.sources == {}


def test_environment_wins_over_file(home: Path) -> None:
    write(home, 'language = "en"\n[search]\nlimit = 5\n[hub]\nendpoint = "https://mirror.example"\n')
    env = {"ZHIWEN_HOME": str(home), "ZHIWEN_SEARCH_LIMIT": "12", "HF_HUB_OFFLINE": "1", "ZHIWEN_LANG": "zh"}
    settings = load_settings(environ=env)
    assert settings.search.limit == 12 and settings.sources["search.limit"] == "ZHIWEN_SEARCH_LIMIT"
    assert settings.hub.offline is True and settings.hub.endpoint == "https://mirror.example"
    assert settings.language == "zh"
    assert settings.sources["hub.endpoint"] == str(home / "zhiwen.toml")


def test_our_variable_wins_over_the_hubs(home: Path) -> None:
    env = {"HF_ENDPOINT": "https://a.example", "ZHIWEN_HUB_ENDPOINT": "https://b.example"}
    assert load_settings(home, environ=env).hub.endpoint == "https://b.example"


@pytest.mark.parametrize(
    ("text", "key", "allowed"),
    [
        ('[embedder]\nmetric = "cos"', "embedder.metric", '"cosine", "ip", "l2"'),
        ("[search]\nlimit = 0", "search.limit", "1 to 100"),
        ("[search]\nlimit = true", "search.limit", "1 to 100"),
        ("[search]\nlimit = 2.5", "search.limit", "1 to 100"),
        ("[generator]\ntemperature = -1", "generator.temperature", "0 to 5"),
        ("[generator]\ntemperature = nan", "generator.temperature", "0 to 5"),
        ("[hub]\noffline = 1", "hub.offline", "true, false"),
        ("[embedder]\nmodel = 3", "embedder.model", "text"),
        ('language = "fr"', "language", '"zh", "en"'),
    ],
)
def test_bad_value_names_place_key_and_allowed(home: Path, text: str, key: str, allowed: str) -> None:
    write(home, text)
    with pytest.raises(SettingsError) as caught:
        load_settings(home, environ={})
    in_chinese = allowed.replace(" to ", " 到 ").replace("text", "文字")
    for message, values in ((str(caught.value), allowed), (caught.value.zh, in_chinese)):
        assert str(home / "zhiwen.toml") in message and key in message and values in message


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("[search]\nlimits = 3", "search.limit"),
        ("[generater]\nkind = 'openai'", "generator"),
        ("[embedder]\nmetrics = 'l2'", "embedder.metric"),
    ],
)
def test_unknown_key_says_what_was_meant(home: Path, text: str, meant: str) -> None:
    write(home, text)
    with pytest.raises(SettingsError, match=f"Did you mean '{meant}"):
        load_settings(home, environ={})


def test_broken_files(home: Path) -> None:
    write(home, "[search\nlimit=3")
    with pytest.raises(SettingsError, match="not valid TOML"):
        load_settings(home, environ={})
    (home / "zhiwen.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings(home, environ={})


def test_bad_environment_value_names_the_variable(home: Path) -> None:
    with pytest.raises(SettingsError, match=r"ZHIWEN_SEARCH_MODE.*hybrid"):
        load_settings(home, environ={"ZHIWEN_SEARCH_MODE": "both"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[generator]\nkind = "openai"', "needs generator.base_url"),
        ('[generator]\nkind = "chatglm3"', "needs generator.model"),
        ('[generator]\nkind = "openai"\nmodel = "m"\nbase_url = "ftp://x"', "must begin with http"),
    ],
)
def test_what_one_key_needs_of_another(home: Path, text: str, message: str) -> None:
    write(home, text)
    with pytest.raises(SettingsError, match=message):
        load_settings(home, environ={})


def test_set_keeps_comments_and_survives_a_round_trip(home: Path) -> None:
    write(home, '# mine\n[search]\nlimit = 5  # few\n\n[generator]\nkind = "none"\n')
    write_setting(home, "search.reranker", 'a "b" \\ c')
    write_setting(home, "search.limit", "6")
    write_setting(home, "language", "en")
    write_setting(home, "hub.offline", "yes")
    settings = load_settings(home, environ={})
    assert settings.search.reranker == 'a "b" \\ c' and settings.search.limit == 6
    assert settings.language == "en" and settings.hub.offline is True
    assert "# mine" in (home / "zhiwen.toml").read_text(encoding="utf-8")
    write_setting(home, "search.limit", None)
    assert load_settings(home, environ={}).search.limit == 8


def test_set_refuses_before_writing(home: Path) -> None:
    with pytest.raises(SettingsError, match="hybrid"):
        write_setting(home, "search.mode", "both")
    with pytest.raises(SettingsError, match="Did you mean"):
        write_setting(home, "search.mod", "dense")
    assert not (home / "zhiwen.toml").exists()


@pytest.mark.parametrize("key", list(known_keys()))
def test_every_key_is_explained(key: str) -> None:
    meta = known_keys()[key].metadata
    assert meta["zh"] and meta["en"] and allowed_values(key)


def test_a_folder_is_written_from_the_root(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`zhiwen models convert` says "settings set generator.model conv"; the next command may be run anywhere."""
    (tmp_path / "conv").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["settings", "set", "generator.model", "conv"]) == 0
    assert str(tmp_path / "conv") in capsys.readouterr().out
    assert load_settings(home).generator.model == str(tmp_path / "conv")
    assert main(["settings", "set", "generator.model", "chatglm3-6b"]) == 0
    assert load_settings(home).generator.model == "chatglm3-6b", "a name under the models folder stays one"
    assert main(["settings", "set", "generator.base_url", "http://127.0.0.1:8000/v1"]) == 0
    assert main(["settings", "set", "generator.model", "conv"]) == 0
    assert load_settings(home).generator.model == "conv", "what a server calls its model"
