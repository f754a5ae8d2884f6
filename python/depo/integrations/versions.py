"""Check a framework's version against the ones that its adapter was tested with."""

from __future__ import annotations

import warnings
from importlib.metadata import PackageNotFoundError, version

from depo.types.errors import install_hint

TESTED_WINDOWS = {"trl": ">=1.16,<1.17", "verl": ">=0.9.1,<0.9.2"}
"""Package -> tested versions, as in pyproject.toml."""


def require_tested(package: str) -> None:
    """Check that a framework is installed, in a tested version.

    Args:
        package: Name of the framework: a key of TESTED_WINDOWS, and the name of depo's extra.

    Raises:
        ImportError: It is not installed; the message names the command that installs it.

    Warns:
        UserWarning: Its version is outside the tested range.
    """
    window = TESTED_WINDOWS[package]
    try:
        installed = version(package)
    except PackageNotFoundError as error:
        raise ImportError(
            f"depo.integrations.{package} needs {package} {window}, which is not installed: "
            f"{install_hint(package)}"
        ) from error
    from packaging.specifiers import SpecifierSet

    if not SpecifierSet(window, prereleases=True).contains(installed):
        warnings.warn(
            f"depo.integrations.{package} was tested with {package} {window}, not with {installed}",
            stacklevel=3,
        )
