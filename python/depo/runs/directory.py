"""Which configuration a run directory belongs to: `config.toml` in it."""

from __future__ import annotations

from pathlib import Path

from depo.config import TrainConfig, dump_config, load_config
from depo.config.load import differences
from depo.state.checkpoints import latest_checkpoint
from depo.state.whole_files import write_whole
from depo.types.errors import ConfigError

CONFIG_FILE = "config.toml"
SHOWN_DIFFERENCES = 3


def require_same_run(config: TrainConfig, run_directory: Path) -> Path | None:
    """Return the checkpoint that a run of `config` continues from, None where it starts.

    Raises:
        ConfigError: The directory holds checkpoints of another configuration.
    """
    newest = latest_checkpoint(run_directory / "checkpoints")
    if newest is None:
        return None
    changed = [
        f"{name} was {old!r}, is {new!r}"
        for name, (new, old) in differences(
            config, load_config(run_directory / CONFIG_FILE)
        ).items()
    ]
    if changed:
        more = (
            f" and {len(changed) - SHOWN_DIFFERENCES} more"
            if len(changed) > SHOWN_DIFFERENCES
            else ""
        )
        ways = (
            f"choose another directory or --run.name, continue it with depo-train --resume "
            f"{run_directory}, or delete it"
        )
        raise ConfigError(
            f"{run_directory} holds a run of another configuration "
            f"({'; '.join(changed[:SHOWN_DIFFERENCES])}{more}): {ways}"
        )
    return newest


def store_config(config: TrainConfig, run_directory: Path) -> None:
    """Write the configuration, every key spelled out, whole or not at all."""
    run_directory.mkdir(parents=True, exist_ok=True)
    write_whole(run_directory / CONFIG_FILE, dump_config(config))
