"""Who may import whom, and what `import depo` may cost."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import depo

PACKAGE = Path(depo.__file__).parent

LAYERS = [
    {"types", "_core"},
    {"config"},
    {"data", "state"},
    {"sampler"},
    {"estimator", "rewards", "rollout", "runs", "testing"},
    {"evaluation"},
    {"integrations", "replay", "training"},
    {"cli"},
]
"""Rooms of depo, lowest first: each may import from the layers below it, and from itself."""

CORE_USERS = {"sampler", "training"}
"""The only rooms that know of the Rust core; in training it is `learner/advantages.py` alone."""

LEVELS = {module: level for level, modules in enumerate(LAYERS) for module in modules}


def imports(path: Path) -> Iterator[str]:
    """Yield the modules of depo, `a` for depo.a.b, that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names]
                if node.module == "depo"
                else [str(node.module)]
            )
        else:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        yield from (name.split(".")[1] for name in names if name.startswith("depo."))


def module_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize(
    "path",
    sorted(set(PACKAGE.rglob("*.py")) - {PACKAGE / "__init__.py"}),
    ids=lambda path: path.relative_to(PACKAGE).as_posix(),
)
def test_imports_point_downwards(path: Path) -> None:
    module = module_of(path)
    assert module in LEVELS, f"{module} has no place in LAYERS"
    for imported in imports(path):
        if imported == "_core":
            assert module in CORE_USERS
        else:
            assert imported == module or LEVELS[imported] < LEVELS[module], (
                f"{module} may not import {imported}"
            )


@pytest.mark.parametrize(
    "module",
    [
        "depo",
        "depo.config",
        "depo.types.records",
        "depo.types.protocols",
        "depo.cli",
        "depo.testing",
    ],
)
def test_the_light_modules_load_numpy_at_most(module: str) -> None:
    heavy = (
        "{'torch', 'transformers', 'pydantic', 'rich', 'safetensors', 'pyarrow', 'datasets', "
        "'tomli_w', 'reasoning_gym', 'math_verify'}"
    )
    code = f"import sys, {module}; loaded = {heavy} & set(sys.modules); assert not loaded, loaded"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
