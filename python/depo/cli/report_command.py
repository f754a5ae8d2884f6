"""`depo report`: the HTML page of a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from depo.cli.parser import Parser


def report_parser(prog: str) -> Parser:
    """Return the parser of `depo report`."""
    parser = Parser(prog, "Write the report of a run: one HTML page with its plots.")
    parser.add_argument(
        "run_directory", metavar="RUN_DIR", type=Path, help="directory of a depo-train run"
    )
    return parser


def report(options: argparse.Namespace) -> int:
    """Write the report and print its path."""
    from depo.runs.report import write_report

    print(write_report(options.run_directory))
    return 0
