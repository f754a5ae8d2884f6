"""Name and version of the distribution, and the warning about its namesake."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import depo
from depo.types import version as version_module
from depo.types.errors import install_hint

ROOT = Path(__file__).parents[2]


def test_the_version_is_that_of_the_distribution() -> None:
    assert depo.__version__ == version(depo.DISTRIBUTION)


def test_the_name_is_that_of_the_project_file() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'name = "{depo.DISTRIBUTION}"' in text
    assert install_hint("trl") == "pip install 'depo-rl[trl]'"


def test_no_file_tells_to_install_the_namesake() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    texts = [ROOT / name for name in listed.stdout.split() if not name.endswith(".png")]
    wrong = re.compile(r"pip install .?depo(\[|\b[^-])")
    found = [
        f"{path}: {line}"
        for path in texts
        if path.is_file() and path != Path(__file__)
        for line in path.read_text(encoding="utf-8").splitlines()
        if wrong.search(line)
    ]
    assert not found


def test_the_namesake_is_warned_of_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version_module, "_installed", lambda name: "0.2.0")
    with pytest.warns(UserWarning, match="depo 0.2.0 is another project") as warned:
        version_module.warn_of_namesake()
    assert "\n" not in str(warned[0].message)
    assert not _warns_now()


def _warns_now() -> bool:
    code = "import warnings; warnings.simplefilter('error'); import depo"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode != 0
