"""Compare the instructions.

That operations of the core execute with those recorded in instructions.json. `make instructions`.

They do not depend on what else the machine does, but on the compiler: with another one than
recorded, or where valgrind is missing, nothing is compared.

python benches/instructions.py [--record]
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
RECORD = Path(__file__).with_suffix(".json")
REPEATS = (4, 12)  # what the second run executes beyond the first is the operation alone, warm
TOLERANCE = 0.03
OPERATIONS = (
    "sample and observe",
    "binary advantages",
    "graded advantages",
    "draw by weight",
    "change weights",
    "best of all",
)


def rustc() -> str:
    return subprocess.run(
        ["rustc", "--version"], check=True, capture_output=True, text=True, cwd=ROOT
    ).stdout.strip()


def obstacle(recorded: str | None) -> str | None:
    """Why nothing can be compared here."""
    if shutil.which("valgrind") is None:
        return "there is no valgrind"
    cpuinfo = Path("/proc/cpuinfo")
    if (
        platform.machine() != "x86_64"
        or not cpuinfo.exists()
        or " avx2 " not in cpuinfo.read_text(encoding="utf-8")
    ):
        return "counts are those of x86-64 with AVX2"
    return f"{rustc()} is not the recorded {recorded}" if recorded not in (None, rustc()) else None


def build() -> Path:
    command = [
        "cargo",
        "build",
        "--quiet",
        "--release",
        "-p",
        "depo_benches",
        "--example",
        "instructions",
        "--message-format",
        "json",
    ]
    messages = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ).stdout.splitlines()
    return next(
        Path(message["executable"])
        for message in map(json.loads, messages)
        if message.get("executable")
    )


def executed(binary: Path, operation: str, repeats: int) -> int:
    command = [
        "valgrind",
        "--tool=callgrind",
        "--callgrind-out-file=/dev/null",
        str(binary),
        operation,
        str(repeats),
    ]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    counts = re.search(r"Collected : (\d+)", output)
    assert counts, output
    return int(counts[1])


def count(binary: Path) -> dict[str, int]:
    first, second = REPEATS
    return {
        operation: (executed(binary, operation, second) - executed(binary, operation, first))
        // (second - first)
        for operation in OPERATIONS
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--record", action="store_true", help="write what is counted now")
    record = parser.parse_args(arguments).record
    recorded = {} if record else json.loads(RECORD.read_text(encoding="utf-8"))
    if reason := obstacle(recorded.get("rustc")):
        print(f"instructions: not counted, {reason}")
        return 1 if record else 0
    counts = count(build())
    if record:
        RECORD.write_text(
            json.dumps({"rustc": rustc(), "instructions": counts}, indent=2) + "\n",
            encoding="utf-8",
        )
        return 0
    changed = 0
    for operation, instructions in counts.items():
        change = instructions / recorded["instructions"][operation] - 1
        changed += abs(change) > TOLERANCE
        print(
            f"{operation:20} {instructions:>12,} "
            f"{change:+7.2%}{'  beyond the tolerance' if abs(change) > TOLERANCE else ''}"
        )
    if changed:
        print(
            f"{changed} of {len(counts)} differ by more than {TOLERANCE:.0%}; if that is meant: "
            f"python benches/instructions.py --record"
        )
    return int(changed > 0)


if __name__ == "__main__":
    sys.exit(main())
