"""Check that the adapter of a training framework keeps the sampler's laws.

Write an `AdapterHarness`, some 30 lines around the framework's real loop, and a test of one line:
`check_adapter(MyHarness)`. It drives the adapter through late, partial, duplicate, aborted and
resumed groups. It needs numpy alone, and no test runner.
"""

from depo.testing.check import ConformanceReport, check_adapter
from depo.testing.harness import FEATURES, AdapterHarness, Fate, FateOf, MakeHarness, QueuedHarness
from depo.testing.watch import LAWS

__all__ = [
    "FEATURES",
    "LAWS",
    "AdapterHarness",
    "ConformanceReport",
    "Fate",
    "FateOf",
    "MakeHarness",
    "QueuedHarness",
    "check_adapter",
]
