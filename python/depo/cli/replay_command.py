"""`depo replay`: selection rules judged on a recorded log."""

from __future__ import annotations

import argparse
from pathlib import Path

from depo.cli.parser import Parser, add_section, overrides_of
from depo.cli.train_command import hide_bars
from depo.config import SelectorConfig


def replay_parser(prog: str) -> Parser:
    """Return the parser of `depo replay`."""
    usage = (
        f"{prog} LOG ... [--selectors NAME,...] [--budget SHARE ...] [--seeds INT] [--json "
        f"FILE] [--plots DIR] [--state DIR] [--selection.key VALUE ...]"
    )
    parser = Parser(
        prog,
        "Replay a rollout log: what each selector would have picked, shown only the outcomes of "
        "what it picked.",
        usage,
    )
    text = (
        "run directory, or files or directories of one layout: pass rates by visit, verl's "
        "rollout_data_dir, prime-rl's rollouts"
    )
    parser.add_argument("logs", nargs="+", metavar="LOG", type=Path, help=text)
    parser.add_argument(
        "--selectors",
        metavar="NAME,...",
        default="",
        help="presets, and the references oracle and hindsight (default: all)",
    )
    text = "shares of the available prompts that are picked (default: 0.3 0.5)"
    parser.add_argument(
        "--budget", nargs="+", metavar="SHARE", type=float, default=[0.3, 0.5], help=text
    )
    parser.add_argument(
        "--seeds",
        metavar="INT",
        type=int,
        default=3,
        help="number of seeds, counted from 0 (default: 3)",
    )
    parser.add_argument(
        "--ticks",
        metavar="INT",
        type=int,
        help="first epochs or steps of the log that are replayed (default: all)",
    )
    parser.add_argument(
        "--warm",
        metavar="INT",
        type=int,
        help="first ticks that are not scored (default: 4; none of a log with fewer than 12)",
    )
    parser.add_argument(
        "--batch",
        metavar="INT",
        type=int,
        default=64,
        help="prompts drawn before their outcomes are shown (default: 64)",
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all results")
    parser.add_argument("--plots", metavar="DIR", type=Path, help="draw the results")
    parser.add_argument(
        "--state",
        metavar="DIR",
        type=Path,
        help="keep progress; the same command goes on where it was interrupted",
    )
    text = (
        "who reads the texts: directory of a Hugging Face encoder, which stays frozen, or own: "
        "the run's, trained anew (default: history alone)"
    )
    parser.add_argument("--encoder", metavar="DIR", help=text)
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
