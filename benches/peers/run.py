"""Time depo against what else does the same, and write docs/performance.md. `make bench-peers`.

.venv-peers/bin/python benches/peers/run.py [--rounds 7] [--only advantages choices posteriors
windows pools tables]
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import advantages
import choices
import pools
import posteriors
import tables
import torch
import windows
from rounds import OURS, Operation

PARTS = {
    "advantages": advantages.measure,
    "choices": choices.measure,
    "posteriors": posteriors.measure,
    "windows": windows.measure,
    "pools": pools.measure,
    "tables": tables.measure,
}
PACKAGES = (
    "numpy",
    "numba",
    "torch",
    "tianshou",
    "cpprb",
    "torchdata",
    "safetensors",
    "tensordict",
    "pyarrow",
    "datasets",
    "trl",
    "verl",
)
OUTPUT = Path(__file__).parents[2] / "docs" / "performance.md"
UNITS = (("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9))

INTRODUCTION = """# Performance

Written by `make bench-peers`: one process, one thread, rounds in shuffled order, process
CPU time, medians over {rounds} rounds.
In brackets: how many times depo's time a peer takes, the median over the
rounds. A bar is the ratio (or depo's time) that is asked for;
MISSED says that some size does not reach it.

{machine}; Python {python}; {packages}.
"""

ELSEWHERE = """## Measured elsewhere

- Candidates from the whole pool (`selection.candidates_from = "pool"`) instead of epoch
  order: docs/selectors.md,
  `cargo bench -p depo_benches --bench pool_search`.
- The place in the epoch's order, which is all that a data loader resumes, is found in 2 to 10 us
  at any size:
  `cargo bench -p depo_benches --bench sampler -- resume_order`.
- A hundred million prompts: built in 8 CPU seconds, a step in 1 ms, Thompson sampling of 1024 in
  .3 ms, 4.3 GiB at the peak:
  `python benches/peers/largest.py`.
- Instructions per operation, which do not depend on what else a machine does:
  `make instructions`, compared with `benches/instructions.json` in CI.
"""


def quantity(seconds: float) -> str:
    unit, scale = next((unit for unit in UNITS if seconds >= unit[1]), UNITS[-1])
    return f"{seconds / scale:.3g} {unit}"


def bar_value(bar: str) -> float:
    number, *unit = bar.split()[:2] if " " in bar else (bar, "x")
    return float(number.rstrip("x")) * dict(UNITS).get("".join(unit), 1.0)


def verdict(operation: Operation, name: str) -> str:
    """The bar, and whether a size misses it.

    Smaller ones are exempt where the bar holds from a size on.
    """
    if name not in operation.bars:
        return ""
    bar = operation.bars[name]
    values = (operation.seconds if name == OURS else operation.ratios)[name]
    sizes, first = list(operation.seconds[OURS]), bar.partition(" from ")[2]
    judged = {
        size: values[size] for size in sizes[sizes.index(first) if first else 0 :] if size in values
    }
    missed = [
        size
        for size, value in judged.items()
        if (value > bar_value(bar) if name == OURS else value < bar_value(bar.split()[0]))
    ]
    return f"{bar}, MISSED at {', '.join(missed)}" if missed else bar


def table(operation: Operation) -> str:
    sizes = list(operation.seconds[OURS])
    lines = [
        f"## {operation.title}",
        "",
        operation.note,
        "",
        f"| | {' | '.join(sizes)} | bar |",
        f"| --- |{' ---: |' * len(sizes)} --- |",
    ]
    for name, seconds in operation.seconds.items():
        ratios = operation.ratios[name]
        cells = [
            f"{quantity(seconds[size])}{'' if name == OURS else f' ({ratios[size]:.3g}x)'}"
            if size in seconds
            else "-"
            for size in sizes
        ]
        lines.append(f"| {name} | {' | '.join(cells)} | {verdict(operation, name)} |")
    return "\n".join(lines) + "\n"


def processor() -> str:
    lines = (
        Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if Path("/proc/cpuinfo").exists()
        else []
    )
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(PARTS),
        default=list(PARTS),
        help="print these parts instead of writing the document",
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    sections = [
        table(operation) for part in options.only for operation in PARTS[part](options.rounds)
    ]
    if options.only != list(PARTS):
        print("\n".join(sections))
        return
    packages = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    introduction = INTRODUCTION.format(
        rounds=options.rounds,
        machine=processor(),
        python=platform.python_version(),
        packages=packages,
    )
    size = choices.SIZES["10M"]
    memory = (
        f"## Memory\n\n{pools.bytes_per_prompt(size):.0f} bytes per prompt beyond its text, "
        f"measured at 10M, and 12 more once it has a label (bar: 64). "
        f"A pool and its sampler, beside Arrow's columns, at 1M: "
        f"{tables.bytes_per_prompt(objects=False):.0f} bytes per prompt as a `PromptTable`, "
        f"{tables.bytes_per_prompt(objects=True):.0f} as `Prompt` objects.\n"
    )
    OUTPUT.write_text("\n".join([introduction, *sections, memory, ELSEWHERE]), encoding="utf-8")


if __name__ == "__main__":
    main()
