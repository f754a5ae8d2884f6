from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = (
    "0"  # on the loopback interface alone; Ray reads it when it is imported
)
collect_ignore_glob = (
    [] if find_spec("transfer_queue") else ["test_*.py"]
)  # verl's own environment has it: requirements/verl.txt


@pytest.fixture(scope="session")
def transfer_queue() -> Iterator[None]:
    import ray
    import transfer_queue as tq

    ray.init(
        num_cpus=16, include_dashboard=False, log_to_driver=False
    )  # logical CPUs: with as many as the machine has, TransferQueue would wait for more
    tq.init()
    yield
    tq.close()
    ray.shutdown()


@pytest.fixture
def queue(transfer_queue: None) -> None:
    """An empty TransferQueue."""
    from tests.integrations.verl.verl_helpers import clear_queue

    clear_queue()
