"""Command line: `depo-train CONFIG`, and `depo train | report | compare | replay`.

What users get wrong ends in one clear line and exit status 2.
"""

from __future__ import annotations

import argparse
import difflib
import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from textwrap import fill
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

from depo.config import SelectorConfig, SourceConfig, TrainConfig
from depo.types.errors import ConfigError, DataError, StateError, WorkerError

EXIT_STATUS: Mapping[str, int] = {"finished": 0, "exhausted": 0, "stopped": 130}
"""Exit status for each way a run ends."""

_USER_ERROR, _LOST_PROCESS = 2, 1
_WIDTH = 100
_METAVARS: Mapping[Any, str] = {int: "INT", float: "FLOAT", bool: "BOOL", str: "TEXT"}


def train_main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point `depo-train`."""
    _run(_train_parser("depo-train"), _train, arguments)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point `depo`: the first argument names a command, the rest is the command's."""
    arguments = sys.argv[1:] if arguments is None else arguments
    commands: Mapping[str, tuple[Callable[[str], _Parser], Callable[[argparse.Namespace], int]]] = {
        "train": (_train_parser, _train),
        "report": (_report_parser, _report),
        "compare": (_compare_parser, _compare),
        "replay": (_replay_parser, _replay),
    }
    parser = _Parser(
        prog="depo",
        description="Find the prompts that teach, and train on them. `depo COMMAND --help` "
        "explains each command.",
    )
    parser.add_argument(
        "command",
        choices=commands,
        metavar="COMMAND",
        help="train (the same as depo-train), report, compare or replay",
    )
    make_parser, action = commands[parser.parse_args(arguments[:1]).command]
    _run(make_parser(f"depo {arguments[0]}"), action, arguments[1:])


class _Parser(argparse.ArgumentParser):
    """A parser whose errors take one line and suggest the nearest option."""

    def __init__(self, prog: str, description: str, usage: str | None = None) -> None:
        super().__init__(prog, usage, description, formatter_class=_formatter, allow_abbrev=False)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            option = next((text for text in unknown if text.startswith("-")), unknown[0]).partition(
                "="
            )[0]
            near = difflib.get_close_matches(option, self._option_string_actions, n=1)
            self.error(
                f"unknown argument {option}" + (f"; did you mean {near[0]}?" if near else "")
            )
        return parsed

    def error(self, message: str) -> NoReturn:
        self.fail(f"{message} (see {self.prog} --help)")

    def fail(self, message: str) -> NoReturn:
        """Exit over something that the user can mend."""
        self.exit(_USER_ERROR, f"{self.prog}: error: {message}\n")


def _formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, width=_WIDTH, max_help_position=40)


def _train_parser(prog: str) -> _Parser:
    usage = (
        f"{prog} CONFIG [--dry-run] [--section.key VALUE ...]\n       {prog} --resume RUN_DIR "
        f"[--dry-run] [--section.key VALUE ...]"
    )
    parser = _Parser(
        prog, "Train a policy with GRPO on the prompts that will teach it something.", usage
    )
    parser.add_argument(
        "config",
        nargs="?",
        metavar="CONFIG",
        type=Path,
        help="TOML file; a run of it that has checkpoints is continued",
    )
    parser.add_argument(
        "--resume",
        metavar="RUN_DIR",
        type=Path,
        help="continue the run in this directory, with the configuration stored there",
    )
    text = (
        "start nothing and write nothing: check files, data, packages and machine, and say "
        "what the run needs; exit status 1 if something is wrong"
    )
    parser.add_argument("--dry-run", action="store_true", help=text)
    _add_config_keys(parser)
    return parser


def _report_parser(prog: str) -> _Parser:
    parser = _Parser(prog, "Write the report of a run: one HTML page with its plots.")
    parser.add_argument(
        "run_directory", metavar="RUN_DIR", type=Path, help="directory of a depo-train run"
    )
    return parser


def _compare_parser(prog: str) -> _Parser:
    usage = (
        f"{prog} CONFIG [--methods NAME ...] [--seeds INT ...] [--jobs INT] [--output DIR] "
        f"[--section.key VALUE ...]"
    )
    parser = _Parser(
        prog,
        "Train the same start, data and seeds under several selection methods, and put the "
        "results side by side.",
        usage,
    )
    parser.add_argument("config", metavar="CONFIG", type=Path, help="TOML file")
    parser.add_argument(
        "--methods", nargs="+", metavar="NAME", help="some of GRPO, DAPO, DEPO, depo (default: all)"
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
    _add_config_keys(parser)
    return parser


def _replay_parser(prog: str) -> _Parser:
    usage = (
        f"{prog} LOG ... [--selectors NAME,...] [--budget SHARE ...] [--seeds INT] [--json "
        f"FILE] [--plots DIR] [--state DIR] [--selection.key VALUE ...]"
    )
    parser = _Parser(
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
    _add_section(parser, "selection", SelectorConfig())
    return parser


def _add_config_keys(parser: _Parser) -> None:
    default = TrainConfig()
    for section in fields(default):
        _add_section(parser, section.name, getattr(default, section.name))
    lines = [
        fill(f"{name} {metavar}: {text}", _WIDTH, initial_indent="  ", subsequent_indent="      ")
        for name, metavar, text in _keys(SourceConfig())
    ]
    parser.epilog = "\n".join(
        [fill(f"[[data.train]] and [[data.eval]]: {_first_line(SourceConfig())}", _WIDTH), *lines]
    )


def _add_section(parser: _Parser, section: str, settings: Any) -> None:
    """Add one option per key.

    Values stay texts: the loader reads and checks them together with the file.
    """
    group = parser.add_argument_group(f"[{section}]", fill(_first_line(settings), _WIDTH - 4))
    for name, metavar, text in _keys(settings):
        group.add_argument(
            f"--{section}.{name}",
            metavar=metavar,
            default=argparse.SUPPRESS,
            help=text.replace("%", "%%"),
        )


def _keys(settings: Any) -> Iterator[tuple[str, str, str]]:
    """Yield name, kind and explanation of every key of a section."""
    hints = get_type_hints(type(settings))
    for item in fields(settings):
        default = getattr(settings, item.name)
        shown = (
            ""
            if default in ("", (), {})
            else f" (default: {str(default).lower() if isinstance(default, bool) else default})"
        )
        yield item.name, _metavar(hints[item.name]), item.metadata["help"] + shown


def _metavar(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "{" + ",".join(get_args(hint)) + "}"
    if get_origin(hint) is tuple:
        return (
            "TABLES"
            if SourceConfig in get_args(hint)
            else "[" + ",".join(_METAVARS[each] for each in get_args(hint)) + "]"
        )
    return _METAVARS.get(hint, "TABLE")


def _first_line(settings: Any) -> str:
    return str(type(settings).__doc__).partition("\n")[0]


def _run(
    parser: _Parser, action: Callable[[argparse.Namespace], int], arguments: Sequence[str] | None
) -> NoReturn:
    """Parse, act, and exit; errors that the user can mend become one line."""
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("depo").setLevel(logging.INFO)
    try:
        sys.exit(action(options))
    except (ConfigError, DataError, StateError) as error:
        parser.fail(str(error))
    except WorkerError as error:
        parser.exit(_LOST_PROCESS, f"{parser.prog}: error: {error}\n")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "depo":
            raise
        parser.fail(f"the package {error.name} is missing: pip install 'depo[train]'")
    except (OSError, ImportError) as error:
        parser.fail(
            f"{error.filename}: {error.strerror}"
            if isinstance(error, OSError) and error.filename
            else str(error)
        )
    except KeyboardInterrupt:
        parser.exit(EXIT_STATUS["stopped"], f"{parser.prog}: interrupted\n")


def _overrides(options: argparse.Namespace) -> list[str]:
    return [f"--{name}={text}" for name, text in vars(options).items() if "." in name]


def _train(options: argparse.Namespace) -> int:
    config, run_directory = _resumed(options) if options.resume else _started(options)
    if options.dry_run:
        from depo.training.dry_run.printout import dry_run

        return dry_run(config)
    from depo.runs.directory import store_config
    from depo.runs.report import write_report
    from depo.training.trainer import Trainer

    _hide_bars()
    try:
        trainer = Trainer(config, run_directory)
    except (
        ValueError
    ) as error:  # what a part refuses at construction is the configuration's or the data's doing
        raise ConfigError(str(error)) from error
    store_config(config, run_directory)
    try:
        result = trainer.run()
    except WorkerError as error:
        raise WorkerError(
            f"{error}\ncontinue from the newest checkpoint with: depo-train --resume "
            f"{run_directory}"
        ) from error
    print(result.message)
    print(f"report: {write_report(run_directory)}")
    return EXIT_STATUS[result.status]


def _hide_bars() -> None:
    """Silence transformers' own progress bars: one per model saved or loaded would break ours."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]


def _started(options: argparse.Namespace) -> tuple[TrainConfig, Path]:
    """Return configuration and directory of a run that is new.

    Or continues under an unchanged configuration.
    """
    from depo.config import load_config
    from depo.runs.directory import require_same_run

    if options.config is None:
        raise ConfigError("got neither CONFIG nor --resume RUN_DIR, expected one of them")
    config = load_config(options.config, _overrides(options))
    run_directory = Path(config.run.directory) / config.run.name
    newest = require_same_run(config, run_directory)
    if newest:
        print(f"continuing {run_directory} from {newest.name}")
    elif (run_directory / "metrics.jsonl").exists():
        print(f"{run_directory} has no checkpoint yet: starting over")
    return config, run_directory


def _resumed(options: argparse.Namespace) -> tuple[TrainConfig, Path]:
    """Return the stored configuration of a run, with the overrides of the command line on top."""
    from depo.config import load_config
    from depo.runs.directory import CONFIG_FILE
    from depo.state.checkpoints import latest_checkpoint

    if options.config is not None:
        raise ConfigError(
            f"got CONFIG {options.config} and --resume, expected one of them: --resume reads "
            f"{options.resume / CONFIG_FILE}"
        )
    config = load_config(options.resume / CONFIG_FILE, _overrides(options))
    newest = latest_checkpoint(options.resume / "checkpoints")
    print(
        f"continuing {options.resume} from {newest.name}"
        if newest
        else f"{options.resume} has no checkpoint yet: starting at step 0"
    )
    return config, options.resume


def _report(options: argparse.Namespace) -> int:
    from depo.runs.report import write_report

    print(write_report(options.run_directory))
    return 0


def _compare(options: argparse.Namespace) -> int:
    from depo.runs.report import comparison_table, write_comparison
    from depo.training.compare import METHODS, Comparison, summarize

    chosen = options.methods or list(METHODS)
    if unknown := [method for method in chosen if method not in METHODS]:
        raise ConfigError(
            f"--methods: got {', '.join(unknown)}, expected some of {', '.join(METHODS)}"
        )
    methods = {method: METHODS[method] for method in chosen}
    comparison = Comparison(
        config=options.config,
        overrides=_overrides(options),
        methods=methods,
        seeds=options.seeds,
        directory=options.output,
    )
    _hide_bars()
    comparison.train(options.jobs)
    records = comparison.records()
    results = summarize(records, options.seeds)
    (options.output / "comparison.json").write_text(
        json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8"
    )
    print(comparison_table(results))
    print(write_comparison(records, results, options.output))
    return 0


def _replay(options: argparse.Namespace) -> int:
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
        overrides=_overrides(options),
    )
    if given.encoder:
        _hide_bars()
    return replay_command(given)
