"""`depo-train`, also `depo train`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from depo.cli.parser import Parser, add_config_keys, overrides_of
from depo.config import TrainConfig
from depo.types.errors import ConfigError, WorkerError

EXIT_STATUS: Mapping[str, int] = {"finished": 0, "exhausted": 0, "stopped": 130}
"""Exit status for each way a run ends."""


def train_parser(prog: str) -> Parser:
    """Return the parser of `depo-train`."""
    usage = (
        f"{prog} CONFIG [--dry-run] [--section.key VALUE ...]\n       {prog} --resume RUN_DIR "
        f"[--dry-run] [--section.key VALUE ...]"
    )
    parser = Parser(
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
    add_config_keys(parser)
    return parser


def train(options: argparse.Namespace) -> int:
    """Train as the configuration says; returns the exit status."""
    config, run_directory = _resumed(options) if options.resume else _started(options)
    if options.dry_run:
        from depo.training.dry_run.printout import dry_run

        return dry_run(config)
    from depo.runs.directory import store_config
    from depo.runs.report import write_report
    from depo.training.trainer import Trainer

    hide_bars()
    try:
        trainer = Trainer(config, run_directory)
    except ValueError as error:  # what a part refuses when it is built, the user can mend
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


def hide_bars() -> None:
    """Silence the progress bars of transformers, which would break ours."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]


def _started(options: argparse.Namespace) -> tuple[TrainConfig, Path]:
    """Return configuration and directory of a new run, or of one that continues unchanged."""
    from depo.config import load_config
    from depo.runs.directory import require_same_run

    if options.config is None:
        raise ConfigError("got neither CONFIG nor --resume RUN_DIR, expected one of them")
    config = load_config(options.config, overrides_of(options))
    run_directory = Path(config.run.directory) / config.run.name
    newest = require_same_run(config, run_directory)
    if newest:
        print(f"continuing {run_directory} from {newest.name}")
    elif (run_directory / "metrics.jsonl").exists():
        print(f"{run_directory} has no checkpoint yet: starting over")
    return config, run_directory


def _resumed(options: argparse.Namespace) -> tuple[TrainConfig, Path]:
    """Return the stored configuration of a run with the overrides on top."""
    from depo.config import load_config
    from depo.runs.directory import CONFIG_FILE
    from depo.state.checkpoints import latest_checkpoint

    if options.config is not None:
        raise ConfigError(
            f"got CONFIG {options.config} and --resume, expected one of them: --resume reads "
            f"{options.resume / CONFIG_FILE}"
        )
    config = load_config(options.resume / CONFIG_FILE, overrides_of(options))
    newest = latest_checkpoint(options.resume / "checkpoints")
    print(
        f"continuing {options.resume} from {newest.name}"
        if newest
        else f"{options.resume} has no checkpoint yet: starting at step 0"
    )
    return config, options.resume
