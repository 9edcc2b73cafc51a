"""`zhiwen ui`: the pages, in the browser of this machine."""

from __future__ import annotations

import argparse
import os
import socket
import threading
import time
from pathlib import Path

from kb.errors import MissingExtra, SettingsError
from ui import arguments
from ui.text import pick

FIRST_PORT = 8501
LOOPBACK = ("127.0.0.1", "::1", "localhost")
UPLOAD_MEGABYTES = 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to listen, and whether to open a browser."""
    parser.add_argument(
        "--port",
        type=int,
        default=0,
        help=pick(
            f"端口，默认 {FIRST_PORT} 起第一个空闲的", f"port, default: the first free one from {FIRST_PORT}"
        ),
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help=pick("监听地址，默认只限本机", "address to listen on, default: this machine only"),
    )
    parser.add_argument(
        "--no-browser", action="store_true", help=pick("不打开浏览器", "do not open a browser")
    )
    arguments.add_home(parser)
    arguments.example(parser, "zhiwen ui", "zhiwen ui --port 9000 --no-browser")


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    from importlib.util import find_spec

    if find_spec("streamlit") is None:
        raise MissingExtra("streamlit", "ui", pick("网页界面", "the pages"))
    if args.home is not None:
        os.environ["ZHIWEN_HOME"] = str(args.home.expanduser().resolve())
    port = chosen_port(args.host, args.port)
    address = f"http://{'[' + args.host + ']' if ':' in args.host else args.host}:{port}"
    print(
        pick(f"知问在 {address} ，按 Ctrl-C 结束。", f"zhiwen is at {address} ; Ctrl-C ends it."), flush=True
    )
    if args.host not in LOOPBACK:
        print(
            pick(
                "注意：能连到这台机器的人都可以查看和更改这里的内容；没有登录。",
                "Note: whoever can reach this machine can see and change everything here; there is no login.",
            ),
            flush=True,
        )
    if not args.no_browser:
        threading.Thread(target=open_browser, args=(args.host, port, address), daemon=True).start()
    serve(host=args.host, port=port)
    return 0


def chosen_port(host: str, wanted: int) -> int:
    """The wanted port if it is free, else an error; without a wish the first free one. Raises SettingsError."""
    if not 0 <= wanted <= 65535:
        raise SettingsError(f"--port {wanted} is not a port.", zh=f"--port {wanted} 不是端口号。")
    for port in [wanted] if wanted else range(FIRST_PORT, FIRST_PORT + 50):
        if free(host, port):
            return port
    raise SettingsError(
        f"port {wanted or FIRST_PORT} on {host} cannot be used: it is taken or not allowed. Choose another: --port 9000",
        zh=f"{host} 的端口 {wanted or FIRST_PORT} 用不了：被占用或没有权限。请换一个：--port 9000",
    )


def free(host: str, port: int) -> bool:
    """Whether a server can listen there."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, port))
        except OSError:
            return False
    return True


def open_browser(host: str, port: int, address: str) -> None:
    """Once the server answers."""
    import webbrowser

    for _ in range(200):
        try:
            socket.create_connection((host, port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
            continue
        webbrowser.open(address)
        return


def options(*, host: str, port: int) -> dict[str, object]:
    """Streamlit's settings. Nothing is sent anywhere, nothing is loaded from anywhere else."""
    return {
        "server.address": host,
        "server.port": port,
        "server.headless": True,
        "server.maxUploadSize": UPLOAD_MEGABYTES,
        "server.fileWatcherType": "none",
        "server.runOnSave": False,
        "browser.gatherUsageStats": False,
        "client.toolbarMode": "viewer",
        "client.showErrorDetails": "none",
        "runner.magicEnabled": False,
        "logger.level": "error",
        "theme.light.primaryColor": "#2f6f5e",
        "theme.dark.primaryColor": "#6fc2a8",
    }


def serve(*, host: str, port: int) -> None:
    """Run Streamlit in this process until it is ended."""
    import pandas  # noqa: F401  before the first visitor waits for it
    from streamlit.runtime.pages_manager import PagesManager
    from streamlit.web import bootstrap

    from ui.pages import ask, knowledge, settings  # noqa: F401

    # app.py lists the pages. Without this, the first address asked for (/finetune) would run ui/pages/finetune.py as a script.
    PagesManager.uses_pages_directory = False
    chosen = options(host=host, port=port)
    flags = {key.replace(".", "_"): value for key, value in chosen.items()}
    bootstrap.load_config_options(flag_options=flags)
    bootstrap.run(str(Path(__file__).resolve().parent.parent / "app.py"), False, [], flags)
