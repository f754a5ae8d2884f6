"""depo's own conformance suite on verl's trainers."""

from __future__ import annotations

import pytest
from verl.trainer.ppo.v1 import trainer_base

from depo.testing import check_adapter
from tests.integrations.verl.harness import AsyncHarness, SyncHarness

pytestmark = pytest.mark.usefixtures("queue")


@pytest.mark.parametrize("harness", [SyncHarness, AsyncHarness])
def test_the_adapter_keeps_the_laws(
    harness: type[SyncHarness], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_base, "uuid", trainer_base.uuid)  # to be given back
    report = check_adapter(harness, steps=10)
    assert all(report.groups.values()), report.groups
    assert (
        set(report.unsupported)
        == {"late", "partial", "duplicate", "aborted", "resumed"} - harness.supports
    )
