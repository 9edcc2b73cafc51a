"""The layers: ui > finetune > rag > kb. A lower layer never imports a higher one."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "kb": {"kb"},
    "rag": {"kb", "rag"},
    "finetune": {"kb", "rag", "finetune"},
    "ui": {"kb", "rag", "finetune", "ui"},
}
FILES = [p for package in MAY_IMPORT for p in sorted((ROOT / package).rglob("*.py"))]


def imported(tree: ast.AST) -> set[str]:
    """Full dotted names of everything that a file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_layers(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    ours = {n for n in imported(ast.parse(path.read_text(encoding="utf-8"))) if n.split(".")[0] in MAY_IMPORT}
    wrong = {n for n in ours if n.split(".")[0] not in MAY_IMPORT[package]}
    if path.relative_to(ROOT).parts[:2] == (
        "rag",
        "chatglm3",
    ):  # a leaf: the model knows nothing of answering
        wrong |= {
            n
            for n in ours
            if not n.startswith(("rag.chatglm3", "kb.errors")) and n not in {"rag.types", "rag"}
        }
    assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}, which is above it"


def test_no_pickle_eval_or_remote_code() -> None:
    """Security is not optional."""
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules = (
                    [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                )
                assert not {"pickle", "dill", "joblib"} & set(modules), f"{path}: {modules}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"eval", "exec"}, f"{path}:{node.lineno}"
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert isinstance(node.value, ast.Constant) and node.value.value is False, f"{path}"
