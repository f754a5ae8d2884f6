"""What several test modules share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def quickstart_policies(pytestconfig: pytest.Config) -> Path:
    """Return where the quickstart's warm start is kept, for all tests of this run and the next.

    It takes a minute.
    """
    assert pytestconfig.cache
    return pytestconfig.cache.mkdir("policies")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Keep torch from adding up in another order than on another machine."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests of vLLM last: it leaves a process group behind, which forks would inherit."""
    items.sort(key=lambda item: "vllm" in item.path.name)
