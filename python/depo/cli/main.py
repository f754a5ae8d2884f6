"""Entry points: parse, act, and turn errors into one line."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from depo.cli.compare_command import compare, compare_parser
from depo.cli.init_command import init, init_parser
from depo.cli.parser import Parser
from depo.cli.replay_command import replay, replay_parser
from depo.cli.report_command import report, report_parser
from depo.cli.train_command import EXIT_STATUS, train, train_parser
from depo.types.errors import ConfigError, DataError, StateError, WorkerError, install_hint

LOST_PROCESS = 1
"""Exit status when a process died that the run cannot go on without."""

Action = Callable[[argparse.Namespace], int]

COMMANDS: Mapping[str, tuple[Callable[[str], Parser], Action]] = {
    "train": (train_parser, train),
    "compare": (compare_parser, compare),
    "replay": (replay_parser, replay),
    "report": (report_parser, report),
    "init": (init_parser, init),
}


def train_main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point `depo-train`."""
    _run(train_parser("depo-train"), train, arguments)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point `depo`: the first argument names a command; without one, print help."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = _main_parser()
    if not arguments:
        parser.print_help()
        sys.exit(0)
    make_parser, action = COMMANDS[parser.parse_args(arguments[:1]).command]
    _run(make_parser(f"depo {arguments[0]}"), action, arguments[1:])


def _main_parser() -> Parser:
    parser = Parser(
        prog="depo",
        description="Skip the prompts that would teach the policy nothing, and train on the rest.\n"
        "`depo COMMAND --help` explains each command.",
    )
    parser.add_argument(
        "command",
        choices=COMMANDS,
        metavar="COMMAND",
        help="train (the same as depo-train), compare, replay, report or init",
    )
    return parser


def _run(parser: Parser, action: Action, arguments: Sequence[str] | None) -> NoReturn:
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("depo").setLevel(logging.INFO)
    try:
        sys.exit(action(options))
    except (ConfigError, DataError, StateError) as error:
        parser.fail(str(error))
    except WorkerError as error:
        parser.exit(LOST_PROCESS, f"{parser.prog}: error: {error}\n")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "depo":
            raise
        parser.fail(f"the package {error.name} is missing: {install_hint('train')}")
    except OSError as error:
        parser.fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except ImportError as error:
        parser.fail(str(error))
    except KeyboardInterrupt:
        parser.exit(EXIT_STATUS["stopped"], f"{parser.prog}: interrupted\n")
