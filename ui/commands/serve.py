"""`zhiwen serve`: the configured language model over the OpenAI protocol, on this machine only unless told otherwise."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from kb.errors import SettingsError
from ui import arguments
from ui.text import pick


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to listen."""
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help=pick("监听地址，默认仅本机", "address, default: this machine only"),
    )
    parser.add_argument("--port", type=arguments.positive, default=8010, help=pick("端口", "port"))
    arguments.add_home(parser)
    arguments.example(parser, "zhiwen serve --port 8010")


def run(args: argparse.Namespace) -> int:
    """Until Ctrl-C."""
    from ui import wiring

    settings = arguments.settings_of(args)
    if args.host not in ("127.0.0.1", "localhost", "::1"):
        raise SettingsError(
            f"--host {args.host}: only this machine is served (127.0.0.1). Put a proxy with a password in front of it.",
            zh=f"--host {args.host}：只服务本机（127.0.0.1）。要给别的机器用，请在前面加带密码的代理。",
        )
    generator = wiring.open_generator(settings)
    if generator is None:
        raise SettingsError(
            "There is no language model to serve. Run: zhiwen doctor",
            zh="没有可以提供服务的语言模型。请运行：zhiwen doctor",
        )
    from rag.generate.openai_server import build_app, serve

    name = Path(settings.generator.model).name
    print(
        pick(
            f"{name}：http://{args.host}:{args.port}/v1（Ctrl-C 结束）",
            f"{name}: http://{args.host}:{args.port}/v1 (Ctrl-C ends)",
        ),
        file=sys.stderr,
    )
    serve(build_app({name: generator}), host=args.host, port=args.port)
    return 0
