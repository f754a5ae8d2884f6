"""Check that an adapter keeps the sampler's laws.

`check_adapter` drives the adapter of any trainer through late, partial, duplicate, aborted and
resumed groups.

An adapter's author writes an `AdapterHarness`, some 30 lines around the framework's real loop, and
a test of one line, `check_adapter(MyHarness)`. Needs numpy alone, no test runner.
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
