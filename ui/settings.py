"""Settings: the only reader of zhiwen.toml and of environment variables.

    settings = load_settings()                 # <ZHIWEN_HOME>/zhiwen.toml, then ZHIWEN_* on top
    settings.embedder.model                    # "" = choose by what is on the machine

What wins, from strongest: a flag of the command, an environment variable (`ZHIWEN_GENERATOR_KIND` for
`generator.kind`), zhiwen.toml, the default. A value that cannot be used is a SettingsError that names the place,
the key, the value and what is allowed; an unknown key is an error too, with the key that was probably meant.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kb.errors import SettingsError
from rag.templates.names import NAMES

FILE_NAME = "zhiwen.toml"
Value = str | int | float | bool


def option(
    default: Value,
    zh: str,
    en: str,
    *,
    choices: tuple[str, ...] = (),
    low: float | None = None,
    high: float | None = None,
) -> Any:
    """A dataclass field with what is allowed (`choices`, or a range that includes both ends) and what it means."""
    return field(default=default, metadata={"choices": choices, "low": low, "high": high, "zh": zh, "en": en})


@dataclass(frozen=True)
class EmbedderSettings:
    """[embedder]: what turns text into vectors. Changing it means indexing again."""

    model: str = option(
        "",
        "模型名或文件夹；空：按本机已有的选择",
        "model name or folder; empty: chosen by what is on this machine",
    )
    query_prefix: str = option("", "加在问题前的文字", "text put before every question")
    passage_prefix: str = option("", "加在段落前的文字", "text put before every passage")
    metric: str = option("cosine", "距离", "how vectors are compared", choices=("cosine", "ip", "l2"))
    device: str = option("", "cpu、cuda、cuda:0；空：自动", "cpu, cuda, cuda:0; empty: automatic")
    dtype: str = option(
        "", "精度；空：自动", "precision; empty: automatic", choices=("", "float32", "bfloat16", "float16")
    )


@dataclass(frozen=True)
class GeneratorSettings:
    """[generator]: what writes answers. kind = "none" gives extractive answers."""

    kind: str = option(
        "none", "由谁写答案", "what writes answers", choices=("none", "chatglm3", "local", "openai")
    )
    model: str = option(
        "",
        "chatglm3：转换后的文件夹；local：其他模型的文件夹；openai：模型名",
        "chatglm3: the converted folder; local: any other model's folder; openai: the model's name",
    )
    template: str = option("auto", "对话模板", "chat template; auto: its own", choices=("auto", *NAMES))
    base_url: str = option("", "OpenAI 兼容服务的地址", "address of an OpenAI-compatible server, with /v1")
    key_env: str = option("", "存放密钥的环境变量名", "name of the environment variable that holds the key")
    adapter: str = option("", "默认使用的适配器文件夹", "adapter folder to answer with")
    quantise: str = option("none", "量化", "quantisation", choices=("none", "int8", "nf4"))
    dtype: str = option(
        "", "精度；空：自动", "precision; empty: automatic", choices=("", "fp32", "bf16", "fp16")
    )
    device: str = option("", "cpu、cuda、cuda:0；空：自动", "cpu, cuda, cuda:0; empty: automatic")
    context_tokens: int = option(
        8192, "提示词和回答合计的 token 上限", "prompt and answer together, tokens", low=256, high=1_000_000
    )
    max_tokens: int = option(512, "回答最长 token 数", "longest answer, tokens", low=1, high=65_536)
    temperature: float = option(0.0, "温度；0 为贪心", "0 is greedy", low=0, high=5)
    top_p: float = option(1.0, "核采样", "nucleus sampling", low=0.01, high=1)
    repetition_penalty: float = option(1.0, "重复惩罚", "above 1 avoids repeats", low=0.1, high=10)
    timeout: float = option(120.0, "等待服务的秒数", "seconds to wait for a server", low=1, high=3600)

    @property
    def here(self) -> bool:
        """Whether a model of this machine writes the answers."""
        return self.kind in ("chatglm3", "local")


@dataclass(frozen=True)
class SearchSettings:
    """[search]: what is found and how much of it is read."""

    mode: str = option("hybrid", "检索方式", "how to search", choices=("hybrid", "dense", "lexical"))
    limit: int = option(8, "最多几段", "passages at the most", low=1, high=100)
    reranker: str = option("", "交叉编码器重排模型", "a cross-encoder that reorders; empty: none")
    budget_tokens: int = option(
        3000, "给模型看的资料的 token 数", "tokens of sources in a prompt", low=100, high=500_000
    )


@dataclass(frozen=True)
class HubSettings:
    """[hub]: where models are downloaded from."""

    endpoint: str = option("", "Hugging Face 镜像地址", "address of a Hugging Face mirror (also HF_ENDPOINT)")
    offline: bool = option(False, "不访问网络", "never use the network (also HF_HUB_OFFLINE)")


@dataclass(frozen=True)
class Settings:
    """Everything that can be set. `sources` says for each key that is not a default where its value came from."""

    home: Path
    language: str = option("zh", "界面语言", "language of what people read", choices=("zh", "en"))
    models_folder: str = option("", "模型文件夹；空：<home>/models", "where models lie; empty: <home>/models")
    embedder: EmbedderSettings = field(default_factory=EmbedderSettings)
    generator: GeneratorSettings = field(default_factory=GeneratorSettings)
    search: SearchSettings = field(default_factory=SearchSettings)
    hub: HubSettings = field(default_factory=HubSettings)
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        """zhiwen.toml of this home; need not exist."""
        return self.home / FILE_NAME

    @property
    def models(self) -> Path:
        """Where `zhiwen models pull` puts models."""
        return Path(self.models_folder).expanduser() if self.models_folder else self.home / "models"

    @property
    def generator_folder(self) -> Path:
        """generator.model as a folder: as given, else by that name under the models folder."""
        given = Path(self.generator.model).expanduser()
        return given if given.is_absolute() or given.is_dir() else self.models / given


SECTIONS: dict[str, type[Any]] = {
    "embedder": EmbedderSettings,
    "generator": GeneratorSettings,
    "search": SearchSettings,
    "hub": HubSettings,
}


def known_keys() -> dict[str, dataclasses.Field[Any]]:
    """ "embedder.model" -> its field, in the order of the file."""
    top = {f.name: f for f in dataclasses.fields(Settings) if f.metadata}
    for section, kind in SECTIONS.items():
        top |= {f"{section}.{f.name}": f for f in dataclasses.fields(kind)}
    return top


def home_folder(environ: Mapping[str, str] | None = None) -> Path:
    """ZHIWEN_HOME, by default ~/.zhiwen."""
    given = (os.environ if environ is None else environ).get("ZHIWEN_HOME", "")
    return Path(given).expanduser() if given else Path.home() / ".zhiwen"


def secret(variable: str) -> str:
    """The key in the environment variable of that name; empty if no name is given. Raises SettingsError if unset."""
    if not variable:
        return ""
    if not os.environ.get(variable):
        raise SettingsError(
            f"generator.key_env names the environment variable {variable}, which is empty. Run: export {variable}=...",
            zh=f"generator.key_env 指定的环境变量 {variable} 是空的。请运行：export {variable}=…",
        )
    return os.environ[variable]


def load_settings(home: Path | None = None, *, environ: Mapping[str, str] | None = None) -> Settings:
    """Read zhiwen.toml and the environment. Raises SettingsError on the first value that cannot be used."""
    env = os.environ if environ is None else environ
    folder = home_folder(env) if home is None else home
    values: dict[str, Value] = {}
    sources: dict[str, str] = {}
    for key, value in read_file(folder / FILE_NAME).items():
        values[key], sources[key] = value, str(folder / FILE_NAME)
    for key, (name, text) in from_environment(env).items():
        values[key], sources[key] = checked(key, text, where=name), name
    nested = {
        section: kind(
            **{f.name: values[k] for f in dataclasses.fields(kind) if (k := f"{section}.{f.name}") in values}
        )
        for section, kind in SECTIONS.items()
    }
    top = {key: value for key, value in values.items() if "." not in key}
    settings = Settings(home=folder, sources=sources, **nested, **top)  # type: ignore[arg-type]
    check_together(settings)
    return settings


def read_file(path: Path) -> dict[str, Value]:
    """The keys of zhiwen.toml, dotted and checked; empty if there is no file."""
    try:
        table = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}", zh=f"读不了 {path}：{error}") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(
            f"{path} is not valid TOML: {error}. Correct that line; text values need quotes.",
            zh=f"{path} 不是合法的 TOML：{error}。请改正该处；文字要加引号。",
        ) from error
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if key in SECTIONS and isinstance(value, dict):
            flat |= {f"{key}.{name}": inner for name, inner in value.items()}
        else:
            flat[key] = value
    return {key: checked(key, value, where=str(path)) for key, value in flat.items()}


def from_environment(env: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Key -> (variable, text) for every variable that is set and not empty."""
    names = {"ZHIWEN_" + key.upper().replace(".", "_"): key for key in known_keys()}
    names |= {"ZHIWEN_LANG": "language", "HF_ENDPOINT": "hub.endpoint", "HF_HUB_OFFLINE": "hub.offline"}
    names |= {"ZHIWEN_MODELS": "models_folder"}
    found: dict[str, tuple[str, str]] = {}
    for name in sorted(names, key=lambda n: n.startswith("ZHIWEN_")):  # ours win over HF_*
        if env.get(name):
            found[names[name]] = (name, env[name])
    return found


def checked(key: str, value: object, *, where: str) -> Value:
    """The value as the type of its key. Text from the environment or a command line is converted first."""
    keys = known_keys()
    if key not in keys:
        close = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
        raise SettingsError(
            f"{where}: unknown setting {key!r}."
            + (f" Did you mean {close[0]!r}?" if close else f" Known: {', '.join(keys)}."),
            zh=f"{where}：没有叫 {key!r} 的设置。"
            + (f"是不是 {close[0]!r}？" if close else f"可用的有：{'、'.join(keys)}。"),
        )
    rule = keys[key].metadata
    default: Any = keys[key].default
    converted = convert(value, default)
    allowed = allowed_values(key)
    bad = converted is None
    if not bad and rule["choices"]:
        bad = converted not in rule["choices"]
    if not bad and rule["low"] is not None:
        bad = not rule["low"] <= float(converted) <= rule["high"]  # type: ignore[arg-type]
    if bad or converted is None:
        raise SettingsError(
            f"{where}: {key} = {value!r} is not usable. Allowed: {allowed}.",
            zh=f"{where}：{key} = {value!r} 不可用。允许：{allowed_values(key, zh=True)}。",
        )
    return converted


def convert(value: object, default: Value) -> Value | None:
    """`value` as the type of `default`, or None if it is not one."""
    if isinstance(default, bool):
        words = {
            "1": True,
            "true": True,
            "yes": True,
            "on": True,
            "0": False,
            "false": False,
            "no": False,
            "off": False,
        }
        return (
            value
            if isinstance(value, bool)
            else words.get(str(value).lower())
            if isinstance(value, str)
            else None
        )
    if isinstance(value, bool):
        return None
    if isinstance(default, str):
        return value if isinstance(value, str) and "\0" not in value else None
    if isinstance(value, str):
        try:
            value = int(value) if isinstance(default, int) else float(value)
        except ValueError:
            return None
    if isinstance(default, int):
        return value if isinstance(value, int) else None
    return float(value) if isinstance(value, int | float) else None


def allowed_values(key: str, *, zh: bool = False) -> str:
    """What a key takes, for messages: '"zh", "en"' or '1 to 100' or 'true, false' or 'text'; with `zh` in Chinese."""
    one = known_keys()[key]
    if one.metadata["choices"]:
        return ", ".join(f'"{choice}"' for choice in one.metadata["choices"])
    if isinstance(one.default, bool):
        return "true, false"
    if one.metadata["low"] is not None:
        return f"{one.metadata['low']} {'到' if zh else 'to'} {one.metadata['high']}"
    return "文字" if zh else "text"


def check_together(settings: Settings) -> None:
    """What one key needs of another."""
    generator = settings.generator
    needs: list[tuple[str, str]] = []
    if generator.kind == "openai":
        needs = [("generator.base_url", generator.base_url), ("generator.model", generator.model)]
    elif generator.here:
        needs = [("generator.model", generator.model)]
    for key, value in needs:
        if not value:
            raise SettingsError(
                f'generator.kind = "{generator.kind}" needs {key}. Run: zhiwen settings set {key} VALUE',
                zh=f'generator.kind = "{generator.kind}" 还需要 {key}。请运行：zhiwen settings set {key} 值',
            )
    if generator.base_url and not generator.base_url.startswith(("http://", "https://")):
        raise SettingsError(
            f"generator.base_url = {generator.base_url!r} must begin with http:// or https://",
            zh=f"generator.base_url = {generator.base_url!r} 应以 http:// 或 https:// 开头",
        )
