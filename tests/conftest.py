"""What several test modules share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def quickstart_policies(pytestconfig: pytest.Config) -> Path:
    """Return where the quickstart's warm start is kept, for all tests of this run and the next: it takes a minute."""
    assert pytestconfig.cache
    return pytestconfig.cache.mkdir("policies")
