"""Read every file of a folder and print what came out: `python tests/bench/load_documents.py FOLDER`."""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

from kb.errors import LoadError
from kb.load import SUPPORTED, load_file


def main(folder: Path) -> None:
    """A line a file: verdict, pages, characters, encoding, seconds, reasons or the error."""
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUPPORTED):
        began = time.monotonic()
        try:
            found = load_file(path)
        except LoadError as error:
            print(f"{'error':8}{path.name[:44]:46}{error.message[:110]}")
            continue
        seconds = time.monotonic() - began
        reasons = Counter(code for page in found.pages for code in page.reasons)
        characters = sum(len(page.text) for page in found.pages)
        about = (
            f"{len(found.pages):5} p {characters:8} ch {found.encoding:9} {seconds:6.2f} s {dict(reasons)}"
        )
        print(f"{found.verdict:8}{path.name[:44]:46}{about}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
