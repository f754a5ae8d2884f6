"""The report of one run: plots/*.png and report.html in its directory."""

from __future__ import annotations

from pathlib import Path

from depo.config import SelectorConfig
from depo.config.load import load_config
from depo.runs.report.charts import write_plots
from depo.runs.report.journal import JournalColumns
from depo.runs.report.page import chart_section, paragraph, preformatted, section, write_page
from depo.runs.report.run_charts import run_charts
from depo.runs.report.run_sections import accuracies, cpu_seconds, ending, glossary, headline
from depo.runs.run_records import RunRecords

_CONFIG_FILE = "config.toml"


def write_report(run_directory: Path) -> Path:
    """Write a run's `report.html` and its `plots/*.png`; the run may still be going.

    What a run has not recorded (no estimator, no evaluation, no probes) is left out with a sentence
    that says why.

    Args:
        run_directory: Directory of a depo-train run.

    Returns:
        Path of the page.

    Raises:
        DataError: The directory holds no metrics.jsonl.
        StateError: A file of the run is damaged.
        ConfigError: Its config.toml does not load.
    """
    run = RunRecords.read(run_directory)
    config_path = run_directory / _CONFIG_FILE
    config = load_config(config_path) if config_path.is_file() else None
    journal = JournalColumns.of(
        run.journal, (config.selection if config else SelectorConfig()).success_threshold
    )
    charts = run_charts(run, journal)
    write_plots(charts, run_directory / "plots")
    settings = (
        preformatted(config_path.read_text(encoding="utf-8"))
        if config
        else paragraph(f"Left out: the run has no {_CONFIG_FILE}.")
    )
    sections = [
        headline(run, journal.last_warmup_step),
        accuracies(run),
        *(chart_section(chart) for chart in charts),
        cpu_seconds(run),
        glossary(run),
        section("Configuration", settings),
    ]
    return write_page(
        run_directory / "report.html",
        f"Run {run_directory.resolve().name}",
        ending(run, config),
        sections,
    )
