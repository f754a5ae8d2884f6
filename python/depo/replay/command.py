"""What `depo replay` does: read a log, replay it under every selector, say what came of it."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depo.config.presets import SELECTOR_PRESETS
from depo.config.selector import SelectorConfig
from depo.replay.advice import advise
from depo.replay.console import tick_progress
from depo.replay.encoder import TextModels
from depo.replay.log import RolloutLog
from depo.replay.log_formats import read_log
from depo.replay.measures import default_warm
from depo.replay.selectors import REFERENCES, replay_config
from depo.replay.suite import Job, Pooled, Result, Suite, Terms
from depo.replay.tables import describe_log, json_content, log_summary, results_table
from depo.runs.interruption import interruptible
from depo.sampler import warnings as sampler_warnings
from depo.types.errors import ConfigError

INTERRUPTED = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """Arguments of the command.

    Attributes:
        logs: Files or directories of one layout.
        selectors: Presets and references, comma-separated; empty: all of them.
        budgets: Shares of the available prompts that are picked.
        seeds: Number of seeds, 0 .. seeds - 1.
        ticks: First ticks of the log that are replayed; None: all.
        warm: Ticks that are not scored; None: by the length of the log.
        batch: Prompts drawn at once.
        json_file: Where results go.
        plots: Directory of the figures.
        state: Directory of the progress.
        encoder: Directory of an encoder, or `own`; None: history alone.
        overrides: Settings of preset depo, as `--selection.key=value`.
    """

    logs: Sequence[Path]
    selectors: str = ""
    budgets: Sequence[float] = (0.3, 0.5)
    seeds: int = 3
    ticks: int | None = None
    warm: int | None = None
    batch: int = 64
    json_file: Path | None = None
    plots: Path | None = None
    state: Path | None = None
    encoder: str | None = None
    overrides: Sequence[str] = ()


def replay_command(options: ReplayOptions) -> int:
    """Replay, print, write; returns the exit status.

    Raises:
        ConfigError: An argument is out of range or unknown.
        DataError: The log cannot be read.
        StateError: `state` belongs to other replays.
    """
    _check(options)
    depo = _depo_config(options.overrides)
    log = read_log(
        options.logs,
        success_threshold=depo.success_threshold,
        with_texts=options.encoder is not None,
    )
    log = log if options.ticks is None else log.first(options.ticks)
    terms = _terms(options, log, depo)
    summary = log_summary(log, terms.warm)
    print(describe_log(summary), flush=True)
    jobs = [
        Job(selector, budget, seed)
        for budget in dict.fromkeys(options.budgets)
        for selector in terms.configs
        for seed in range(options.seeds)
    ]
    suite = Suite(log, terms, options.state)
    results = _run(suite, jobs)
    if results is None:
        print(
            "interrupted; the same command goes on from here"
            if options.state
            else "interrupted; with --state DIR it could have gone on"
        )
        return INTERRUPTED
    _publish(options, log, summary, results, suite.pooled(jobs))
    return 0


def _check(options: ReplayOptions) -> None:
    for name, value, least in (
        ("--seeds", options.seeds, 1),
        ("--batch", options.batch, 1),
        ("--ticks", options.ticks, 1),
        ("--warm", options.warm, 0),
    ):
        if value is not None and value < least:
            raise ConfigError(f"{name}: got {value}, expected an integer >= {least}")
    for budget in options.budgets:
        if not (math.isfinite(budget) and 0.0 < budget <= 1.0):
            raise ConfigError(f"--budget: got {budget}, expected shares in (0, 1]")


def _depo_config(overrides: Sequence[str]) -> SelectorConfig:
    if any(text.startswith("--selection.preset=") for text in overrides):
        raise ConfigError(
            "--selection.preset: choose presets with --selectors; --selection.KEY changes the "
            "settings of preset depo"
        )
    if not overrides:
        return SelectorConfig.from_preset("depo", warmup_steps=0)
    from depo.config.load import override_defaults  # needs pydantic

    return override_defaults(["--selection.warmup_steps=0", *overrides]).selection


def _terms(options: ReplayOptions, log: RolloutLog, depo: SelectorConfig) -> Terms:
    warm = default_warm(log) if options.warm is None else options.warm
    if warm >= log.n_ticks:
        raise ConfigError(f"--warm: got {warm}, expected fewer than the log's {log.n_ticks} ticks")
    named = [name.strip() for name in options.selectors.split(",") if name.strip()] or [
        *SELECTOR_PRESETS,
        *REFERENCES,
    ]
    configs = {name: replay_config(name, depo) for name in named}
    if options.encoder is None:
        configs = _without_text_only(configs)
    text_models = (
        TextModels(options.encoder, log, _run_directory(options.logs, log))
        if options.encoder
        else None
    )
    return Terms(
        configs=configs,
        warm=warm,
        batch=options.batch,
        encoder=options.encoder or "",
        text_models=text_models,
    )


def _without_text_only(configs: Mapping[str, SelectorConfig]) -> dict[str, SelectorConfig]:
    """Leave out, and say so, what selects by text alone: nobody reads it here."""
    kept = {
        name: config for name, config in configs.items() if config.use_history or name in REFERENCES
    }
    for name in [name for name in configs if name not in kept]:
        print(
            f"{name} is left out: it selects by text alone, and nothing reads the text; name an "
            f"encoder with --encoder",
            file=sys.stderr,
        )
    if not kept:
        raise ConfigError(
            f"--selectors: got {', '.join(configs)}, expected one that does not need --encoder"
        )
    return kept


def _run_directory(logs: Sequence[Path], log: RolloutLog) -> Path | None:
    if log.layout != "depo":
        return None
    return logs[0] if logs[0].is_dir() else logs[0].parent


def _run(suite: Suite, jobs: Sequence[Job]) -> list[Result] | None:
    with (
        _without_warnings(),
        interruptible() as received,
        tick_progress(len(jobs) * suite.log.n_ticks) as on_tick,
    ):
        return suite.run(jobs, on_tick=on_tick, interrupted=lambda: bool(received))


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence the samplers: a shortage is a matter of the budget here."""
    level = sampler_warnings.logger.level
    sampler_warnings.logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        sampler_warnings.logger.setLevel(level)


def _publish(
    options: ReplayOptions,
    log: RolloutLog,
    summary: Mapping[str, Any],
    results: Sequence[Result],
    pooled: Sequence[Pooled],
) -> None:
    advice = advise(log, results) if log.kind == "steps" else ""
    print(f"\n{results_table(results, pooled)}")
    if options.json_file:
        options.json_file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(json_content(summary, results, pooled, advice), indent=1, allow_nan=False)
        options.json_file.write_text(text + "\n", encoding="utf-8")
        print(f"results: {options.json_file}")
    if options.plots:
        from depo.replay.plots import replay_charts
        from depo.runs.report.charts import write_plots

        write_plots(replay_charts(results, pooled), options.plots)
        print(f"plots: {options.plots}")
    if advice:
        print(advice)
