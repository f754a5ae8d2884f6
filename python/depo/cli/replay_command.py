"""`depo replay`: selection rules judged on a recorded log."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from depo.cli.parser import Parser, add_section, overrides_of
from depo.cli.train_command import hide_bars
from depo.config import SelectorConfig

OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "--selectors": {
        "metavar": "NAME,...",
        "default": "",
        "help": "presets, and the references oracle and hindsight (default: all)",
    },
    "--budget": {
        "nargs": "+",
        "metavar": "SHARE",
        "type": float,
        "default": [0.3, 0.5],
        "help": "shares of the available prompts that are picked (default: 0.3 0.5)",
    },
    "--seeds": {
        "metavar": "INT",
        "type": int,
        "default": 3,
        "help": "number of seeds, counted from 0 (default: 3)",
    },
    "--ticks": {
        "metavar": "INT",
        "type": int,
        "help": "replay only the first N epochs or steps of the log (default: all)",
    },
    "--warm": {
        "metavar": "INT",
        "type": int,
        "help": "do not score the first N ticks (default: 4; 0 for a log of fewer than 12)",
    },
    "--batch": {
        "metavar": "INT",
        "type": int,
        "default": 64,
        "help": "prompts drawn before their outcomes are shown (default: 64)",
    },
    "--json": {"metavar": "FILE", "type": Path, "help": "write all results"},
    "--plots": {"metavar": "DIR", "type": Path, "help": "draw the results"},
    "--state": {
        "metavar": "DIR",
        "type": Path,
        "help": "keep progress; the same command continues where it was interrupted",
    },
    "--encoder": {
        "metavar": "DIR",
        "help": "what reads the texts: directory of a Hugging Face encoder, which stays frozen, or "
        "own: the run's, trained anew (default: history alone)",
    },
}


def replay_parser(prog: str) -> Parser:
    """Return the parser of `depo replay`."""
    usage = (
        f"{prog} LOG ... [--selectors NAME,...] [--budget SHARE ...] [--seeds INT] [--json "
        f"FILE] [--plots DIR] [--state DIR] [--selection.key VALUE ...]"
    )
    about = (
        "Replay a rollout log: what each selection rule would have picked, given only the outcomes "
        "of what it picked."
    )
    parser = Parser(prog, about, usage)
    text = (
        "run directory, or files or directories of one layout: pass rates by visit, verl's "
        "rollout_data_dir, prime-rl's rollouts"
    )
    parser.add_argument("logs", nargs="+", metavar="LOG", type=Path, help=text)
    for name, settings in OPTIONS.items():
        parser.add_argument(name, **settings)
    add_section(parser, "selection", SelectorConfig())
    return parser


def replay(options: argparse.Namespace) -> int:
    """Replay a log and print the table."""
    from depo.replay.command import ReplayOptions, replay_command

    given = ReplayOptions(
        logs=options.logs,
        selectors=options.selectors,
        budgets=options.budget,
        seeds=options.seeds,
        ticks=options.ticks,
        warm=options.warm,
        batch=options.batch,
        json_file=options.json,
        plots=options.plots,
        state=options.state,
        encoder=options.encoder,
        overrides=overrides_of(options),
    )
    if given.encoder:
        hide_bars()
    return replay_command(given)
