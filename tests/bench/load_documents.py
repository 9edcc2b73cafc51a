"""Read every file of a folder and print what came out: `python tests/bench/load_documents.py FOLDER [--ocr off]`."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path

from kb.errors import LoadError
from kb.load import load_file


def main() -> None:
    """A line a file: verdict, pages, characters, encoding, seconds, reasons or the error; then the totals."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ocr", choices=("auto", "off", "require"), default="off")
    parser.add_argument("--text", type=Path, help="folder to write the blocks of each file to, for reading")
    given = parser.parse_args()
    verdicts: Counter[str] = Counter()
    pages, began = 0, time.monotonic()
    for path in sorted(p for p in given.folder.rglob("*") if p.is_file()):
        start = time.monotonic()
        try:
            found = load_file(path, ocr=given.ocr)
        except LoadError as error:
            verdicts["error"] += 1
            print(f"{'error':8}{path.name[:44]!r:48}{error.message[:130]}")
            continue
        seconds = time.monotonic() - start
        verdicts[found.verdict] += 1
        pages += len(found.pages)
        reasons = dict(Counter(code for page in found.pages for code in page.reasons))
        characters = sum(len(page.text) for page in found.pages)
        about = f"{len(found.pages):5} p {characters:8} ch {found.encoding:10}{seconds:7.2f} s"
        print(f"{found.verdict:8}{path.name[:44]!r:48}{about} {reasons or ''} {' '.join(found.notes)}")
        if given.text is not None:
            given.text.mkdir(parents=True, exist_ok=True)
            blocks = (
                f"[{page.number} {block.kind}{block.level or ''}] {page.text[block.start : block.end]}"
                for page in found.pages
                for block in page.blocks
            )
            (given.text / f"{path.name}.txt").write_text("\n".join(blocks), encoding="utf-8")
    print(f"{dict(verdicts)}, {pages} pages in {time.monotonic() - began:.1f} s")


if __name__ == "__main__":
    main()
