"""Recorded rollouts replayed.

What each selector would have picked, shown nothing but what it picked.

Dimension letters in this package: R records, K ticks, A records of a tick, P picks; G rollouts of a
group as everywhere.
"""

from depo.replay.log import RolloutLog
from depo.replay.log_formats import read_log
from depo.replay.measures import measure
from depo.replay.replay import Replay
from depo.replay.selectors import build_selector

__all__ = ["Replay", "RolloutLog", "build_selector", "measure", "read_log"]
