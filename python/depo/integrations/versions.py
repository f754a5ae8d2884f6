"""Which versions of a framework its adapter was tested with, and what is said of others."""

from __future__ import annotations

import warnings
from importlib.metadata import PackageNotFoundError, version

TESTED_WINDOWS = {"trl": ((1, 16), (1, 17)), "verl": ((0, 9, 1), (0, 9, 2))}
"""Package -> (first version that was tested, first that was not)."""


def require_tested(package: str) -> None:
    """Check the installed version of a framework.

    Args:
        package: Its name, a key of TESTED_WINDOWS and the name of depo's extra.

    Raises:
        ImportError: It is not installed; the message names the extra.

    Warns:
        UserWarning: Its version lies outside of the tested window.
    """
    first, beyond = TESTED_WINDOWS[package]
    window = f">={_text(first)},<{_text(beyond)}"
    try:
        installed = version(package)
    except PackageNotFoundError as error:
        raise ImportError(
            f"depo.integrations.{package} needs {package} {window}, which is not installed: pip "
            f"install 'depo[{package}]'"
        ) from error
    if not first <= _numbers(installed) < beyond:
        warnings.warn(
            f"depo.integrations.{package} was tested with {package} {window}, not with {installed}",
            stacklevel=3,
        )


def _text(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))


def _numbers(text: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: 1.16.0.dev1 -> (1, 16, 0)."""
    numbers = []
    for part in text.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)
