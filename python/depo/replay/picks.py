"""What a replay picked, as columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depo.types.records import BoolArray, Int64Array

Float64Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picks:
    """Picked groups in order, cheap probes among them; arrays are [P].

    Attributes:
        records: int64, rows of the log.
        p_informative: float64 in [0, 1], believed at the pick; NaN where nothing is believed.
        probed: bool, picked to look at what the selector would not have picked by itself (kinds
            explore and reprobe).
        n_rollouts: int64, rollouts paid for: the log's group size, fewer of a cheap probe.
    """

    records: Int64Array
    p_informative: Float64Array
    probed: BoolArray
    n_rollouts: Int64Array

    @classmethod
    def join(cls, parts: Sequence[Picks]) -> Picks:
        """Return the picks of all parts, in order."""
        empty = cls(
            records=np.empty(0, np.int64),
            p_informative=np.empty(0),
            probed=np.empty(0, bool),
            n_rollouts=np.empty(0, np.int64),
        )
        columns = {
            item.name: np.concatenate([getattr(part, item.name) for part in (empty, *parts)])
            for item in fields(cls)
        }
        return cls(**columns)

    def state_dict(self) -> dict[str, Any]:
        """Return the columns by name."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Picks:
        """Return what `state_dict` was made of."""
        return cls(**state)
