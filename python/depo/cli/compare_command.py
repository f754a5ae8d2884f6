"""`depo compare`: several methods side by side."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from depo.cli.parser import Parser, add_config_keys, overrides_of
from depo.cli.train_command import hide_bars
from depo.types.errors import ConfigError

_RENAMED = {"GRPO": "grpo", "DAPO": "dapo", "DEPO": "depo_paper"}
"""Methods of earlier versions -> what they are called now."""


def compare_parser(prog: str) -> Parser:
    """Return the parser of `depo compare`."""
    usage = (
        f"{prog} CONFIG [--methods NAME ...] [--seeds INT ...] [--jobs INT] [--output DIR] "
        f"[--section.key VALUE ...]"
    )
    parser = Parser(
        prog,
        "Train the same start, data and seeds under several selection methods, and put the "
        "results side by side.",
        usage,
    )
    parser.add_argument("config", metavar="CONFIG", type=Path, help="TOML file")
    parser.add_argument(
        "--methods",
        nargs="+",
        metavar="NAME",
        help="some of grpo, dapo, depo_paper, depo (default: all)",
    )
    parser.add_argument(
        "--seeds",
        nargs="+",
        metavar="INT",
        type=int,
        default=[0],
        help="one run of each method per seed (default: 0)",
    )
    parser.add_argument(
        "--jobs", metavar="INT", type=int, default=1, help="runs at a time (default: 1)"
    )
    text = "where runs, comparison.json and the report go (default: runs/compare)"
    parser.add_argument(
        "--output", metavar="DIR", type=Path, default=Path("runs/compare"), help=text
    )
    add_config_keys(parser)
    return parser


def compare(options: argparse.Namespace) -> int:
    """Train every method with every seed, and write the comparison."""
    from depo.runs.report import comparison_table, write_comparison
    from depo.training.compare import METHODS, Comparison, summarize

    chosen = options.methods or list(METHODS)
    for method in chosen:
        if method not in METHODS:
            renamed = f"; {method} is called {_RENAMED[method]} now" if method in _RENAMED else ""
            expected = f"expected some of {', '.join(METHODS)}"
            raise ConfigError(f"--methods: got {method}, {expected}{renamed}")
    methods = {method: METHODS[method] for method in chosen}
    comparison = Comparison(
        config=options.config,
        overrides=overrides_of(options),
        methods=methods,
        seeds=options.seeds,
        directory=options.output,
    )
    hide_bars()
    comparison.train(options.jobs)
    records = comparison.records()
    results = summarize(records, options.seeds)
    (options.output / "comparison.json").write_text(
        json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8"
    )
    print(comparison_table(results))
    print(write_comparison(records, results, options.output))
    return 0
