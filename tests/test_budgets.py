"""Sizes that keep the code readable: width, functions, files, names at the top level."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LISTED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
FILES = [ROOT / name for name in LISTED.stdout.split() if (ROOT / name).is_file()]
CODE = [path for path in FILES if path.suffix in (".py", ".pyi", ".rs")]
SOURCES = [
    path
    for path in CODE
    if path.relative_to(ROOT).parts[0] == "python"
    or (path.relative_to(ROOT).parts[0] == "crates" and "src" in path.parts)
]
WIDTH, FUNCTION, FILE, NAMES = 100, 40, 400, 17

pytestmark = pytest.mark.skipif(not FILES, reason="the tests run outside of a git checkout")


def python_functions(path: Path) -> list[tuple[str, int]]:
    """Name and lines of each function, its docstring not counted."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0]
            documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
            found.append((node.name, (node.end_lineno or 0) - node.lineno + 1 - docstring))
    return found


def rust_functions(path: Path) -> list[tuple[str, int]]:
    """Name and lines of each function, from `fn` to the brace in its column."""
    lines, found = path.read_text(encoding="utf-8").split("\n"), []
    for start, line in enumerate(lines):
        opened = re.match(r"(\s*)(?:pub(?:\(\w+\))? )?(?:const )?(?:unsafe )?fn (\w+)", line)
        if opened:
            closing = (n for n in range(start, len(lines)) if lines[n].startswith(opened[1] + "}"))
            found.append((opened[2], next(closing, start) - start + 1))
    return found


def test_no_line_is_too_wide() -> None:
    wide = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in CODE
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1)
        if len(re.sub(r"  # (type: ignore|noqa|isort).*", "", line)) > WIDTH
    ]
    assert not wide


def test_no_file_is_too_long() -> None:
    lengths = {path: path.read_text(encoding="utf-8").count("\n") for path in SOURCES}
    typed_face = ROOT / "python/depo/_core.pyi"  # one class, documented method by method
    assert not {
        str(path): length
        for path, length in lengths.items()
        if length > FILE and path != typed_face
    }


def test_no_function_is_too_long() -> None:
    long = [
        f"{path.relative_to(ROOT)}: {name} has {length} lines"
        for path in SOURCES
        if path.suffix != ".pyi"
        for name, length in (python_functions if path.suffix == ".py" else rust_functions)(path)
        if length > FUNCTION
    ]
    assert not long


def test_the_package_has_few_names_at_the_top() -> None:
    package = ROOT / "python" / "depo"
    inside = [path for path in SOURCES if path.is_relative_to(package)]
    names = {path.relative_to(package).parts[0] for path in inside}
    rooms = {name for name in names if not name.startswith("_") and name != "py.typed"}
    assert len(rooms) <= NAMES, sorted(rooms)
