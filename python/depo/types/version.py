"""The installed version, and a warning about another project of the same name."""

from __future__ import annotations

import warnings
from importlib.metadata import PackageNotFoundError, version

from depo.types.errors import DISTRIBUTION

NAMESAKE = "depo"
"""A client of a delivery service on PyPI (0.2.0, 2019) that installs the same import name."""


def _installed(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


VERSION = _installed(DISTRIBUTION) or "0+source"
"""Version of the installed distribution; `0+source` where only the sources are on the path."""


def warn_of_namesake() -> None:
    """Warn if the distribution `depo`, which is another project, is installed.

    Warns:
        UserWarning: It is, and an upgrade of it would replace this package's files.
    """
    if (found := _installed(NAMESAKE)) is not None:
        warnings.warn(
            f"the distribution {NAMESAKE} {found} is another project that installs the same "
            f"files; run: pip uninstall {NAMESAKE} && pip install --force-reinstall {DISTRIBUTION}",
            stacklevel=3,
        )
