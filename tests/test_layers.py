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
    {"errors", "records", "config", "protocols", "_core"},
    {"batch", "interruption", "keyed", "nested_state", "precision", "prompt_table", "user_code"},
    {
        "advantages",
        "data",
        "estimator",
        "group_weights",
        "loss_masks",
        "losses",
        "metric_names",
        "metrics",
        "packing",
        "progress",
        "rewards",
        "rollout",
        "scale",
        "state_files",
    },
    {"checkpoint", "learner", "run_log", "run_records", "sampler_core", "sampler_warnings", "shaping", "step_metrics", "warm_start"},
    {"distributed", "sampler"},
    {"collect", "integrations", "parts", "snapshots", "testing"},
    {"evaluate"},
    {"dry_run", "trainer"},
    {"report", "run_directory"},
    {"compare", "replay"},
    {"cli"},
]
"""Modules of depo, lowest first: each may import from the layers below it; the lowest knows itself alone, and a package also its own modules."""

CORE_USERS = {"prompt_table", "sampler", "sampler_core", "advantages", "keyed", "scale", "snapshots"}
"""The only modules that know of the Rust core."""

LEVELS = {module: level for level, modules in enumerate(LAYERS) for module in modules}


def imports(path: Path) -> Iterator[str]:
    """Yield the modules of depo, `a` for depo.a.b, that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "depo" else [str(node.module)]
        else:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        yield from (name.split(".")[1] for name in names if name.startswith("depo."))


def module_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize("path", sorted(set(PACKAGE.rglob("*.py")) - {PACKAGE / "__init__.py"}), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_point_downwards(path: Path) -> None:
    module = module_of(path)
    assert module in LEVELS, f"{module} has no place in LAYERS"
    for imported in imports(path):
        if imported == "_core":
            assert module in CORE_USERS
        elif LEVELS[module] == 0:
            assert LEVELS[imported] == 0
        else:
            assert imported == module or LEVELS[imported] < LEVELS[module], f"{module} may not import {imported}"


@pytest.mark.parametrize("module", ["depo", "depo.config", "depo.records", "depo.protocols", "depo.cli", "depo.testing"])
def test_the_light_modules_load_numpy_at_most(module: str) -> None:
    heavy = "{'torch', 'transformers', 'pydantic', 'rich', 'safetensors', 'pyarrow', 'datasets', 'tomli_w', 'reasoning_gym', 'math_verify'}"
    code = f"import sys, {module}; loaded = {heavy} & set(sys.modules); assert not loaded, loaded"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
