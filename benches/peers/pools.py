"""The sampler itself by pool size: built, a step, saved, loaded.

Beside the epoch orders of TRL and torchdata, safetensors, tensordict and pickle.
"""

from __future__ import annotations

import itertools
import resource
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from choices import SIZES
from rounds import OURS, Operation
from torchdata.stateful_dataloader import StatefulDataLoader
from trl.trainer.utils import RepeatSampler

from depo import SelectorConfig, _core
from depo.sampler.core import core_settings

Cases = Mapping[str, Callable[[], object]]

BATCH = 128
GROUP_SIZE = 8
WARM_STEPS = 200
FIBONACCI = np.uint64(
    11_400_714_819_323_198_485
)  # odd: spreads numbers over 64 bits, all different
MEMCPY = "memcpy of the same bytes"
TORCHDATA_LIMIT = 1_000_000  # it is stepped to the middle of an epoch batch by batch


def build(size: int) -> _core.Sampler:
    config = SelectorConfig.from_preset("depo")
    settings: dict[str, Any] = core_settings(config)
    ids = np.arange(size, dtype=np.uint64) * FIBONACCI
    return _core.Sampler(
        ids,
        np.zeros(size, np.uint32),
        group_size=GROUP_SIZE,
        seed=0,
        source_floors=np.zeros(1, np.float32),
        **settings,
    )


class Steps:
    """One training step after another, as far as the sampler is concerned."""

    def __init__(self, sampler: _core.Sampler) -> None:
        self.sampler, self.version, self.random = sampler, 0, np.random.default_rng(0)

    def sample(self) -> np.ndarray:
        self.version += 1
        while (candidates := self.sampler.propose(BATCH, self.version)).size:
            self.sampler.offer(
                candidates, np.full(candidates.size, np.nan, np.float32), self.version
            )
        return self.sampler.take(BATCH, self.version)["draw_ids"]

    def sample_and_release(self) -> None:
        self.sampler.release(self.sample())

    def sample_and_observe(self) -> None:
        draw_ids = self.sample()
        rewards_BG = self.random.integers(0, 2, (draw_ids.size, GROUP_SIZE)).astype(np.float32)
        self.sampler.observe(
            draw_ids, rewards_BG, np.full(draw_ids.size, np.nan, np.float32), self.version
        )


def endless(make: Callable[[], Any]) -> Callable[[], object]:
    """Batches of an epoch, and of the next."""
    batches = itertools.chain.from_iterable(iter(make()) for _ in itertools.count())
    return lambda: next(batches)


def repeat_sampler(size: int) -> RepeatSampler:
    return RepeatSampler(range(size), mini_repeat_count=GROUP_SIZE, batch_size=BATCH, seed=0)


def trl_batches(size: int) -> Callable[[], object]:
    indices = iter(repeat_sampler(size))
    return lambda: list(itertools.islice(indices, BATCH * GROUP_SIZE))


def resumed_by_trl(size: int) -> list[int]:
    middle = size // BATCH // 2 * BATCH * GROUP_SIZE
    return list(itertools.islice(repeat_sampler(size), middle, middle + BATCH * GROUP_SIZE))


def data_loader(size: int) -> Any:
    return StatefulDataLoader(range(size), batch_size=BATCH, shuffle=True)


def resumed_by_torchdata(size: int, state: Mapping[str, Any]) -> object:
    loader = data_loader(size)
    loader.load_state_dict(state)
    return next(iter(loader))


def loader_state(size: int) -> dict[str, Any]:
    loader = data_loader(size)
    batches = iter(loader)
    for _ in range(size // BATCH // 2):
        next(batches)
    return dict(loader.state_dict())


def resident_bytes() -> int:
    return (
        int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        * resource.getpagesize()
    )


def bytes_per_prompt(size: int) -> float:
    """Memory of a sampler that has loaded a state.

    This touches all that is kept of each prompt but the order of labels.
    """
    state = build(size).state_dict()
    before = resident_bytes()
    sampler = build(size)
    sampler.load_state_dict(state)
    return (resident_bytes() - before) / size


OPERATIONS = {
    "built": Operation(
        "Construct a pool from ids", "`depo._core.Sampler`; ids are checked to be distinct."
    ),
    "step": Operation(
        f"One step: sample {BATCH}, observe {BATCH} x {GROUP_SIZE}",
        "Default selector: belief, fit and budget; no peer does this. The second row samples and "
        "releases.",
        {OURS: "2 ms"},
    ),
    "batch": Operation(
        f"The next {BATCH} prompts of a shuffled epoch",
        "depo judges 6 candidates for each prompt; the others hand out positions in an order made "
        "at the start of the epoch, which is not counted here.",
    ),
    "resume": Operation(
        "Resume in the middle of an epoch",
        "depo restores everything it knows of each prompt, the others the place in the epoch "
        "alone. For that there is a bar of 20 us at any size, "
        "which depo's order meets with 2 to 10: `cargo bench -p depo_benches --bench sampler -- "
        "resume_order`.",
    ),
}


def measure_size(size: str, count: int, rounds: int) -> None:
    OPERATIONS["built"].time(size, {OURS: lambda: build(count)}, rounds)
    sampler = build(count)
    steps = Steps(sampler)
    for _ in range(WARM_STEPS):
        steps.sample_and_observe()
    OPERATIONS["step"].time(
        size, {OURS: steps.sample_and_observe, "of which sample": steps.sample_and_release}, rounds
    )
    drawing = {OURS: steps.sample_and_release, "TRL RepeatSampler": trl_batches(count)}
    state = sampler.state_dict()
    resuming = {
        OURS: lambda: sampler.load_state_dict(state),
        "TRL RepeatSampler": lambda: resumed_by_trl(count),
    }
    if count <= TORCHDATA_LIMIT:
        loader = loader_state(count)
        drawing["torchdata StatefulDataLoader"] = endless(lambda: data_loader(count))
        resuming["torchdata StatefulDataLoader"] = lambda: resumed_by_torchdata(count, loader)
    OPERATIONS["batch"].time(size, drawing, rounds)
    OPERATIONS["resume"].time(size, resuming, rounds)


def measure(rounds: int) -> list[Operation]:
    for size, count in SIZES.items():
        measure_size(size, count, rounds)
    return list(OPERATIONS.values())
