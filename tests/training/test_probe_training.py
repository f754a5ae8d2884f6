"""A whole run with cheap probes: what is trained on, what is counted, what the report says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

pytest.importorskip("torch")

from depo.runs.report import write_report
from depo.runs.run_records import Row, RunRecords
from depo.training.trainer import Trainer
from depo.types.records import RolloutGroup
from tests.training.tiny import checksum_overrides, tiny_config

G = 4
PROMPTS_PER_STEP = 4


@pytest.fixture(
    scope="module", params=[("logit_normal", 1), ("beta", 2)], ids=["one rollout", "two rollouts"]
)
def probed_run(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunRecords, list[list[int]], int]:
    """Return a run.

    That probes whoever has no label for two steps, the sizes of the groups of each update, and the
    rollouts of a probe.
    """
    belief, probe_rollouts = request.param
    directory = tmp_path_factory.mktemp("probed")
    overrides = (
        "--selection.belief",
        belief,
        "--selection.max_age",
        "2",
        "--selection.probe_rollouts",
        str(probe_rollouts),
    )
    trainer = Trainer(
        tiny_config(directory, *checksum_overrides(directory), *overrides), directory / "run"
    )
    update, sizes = trainer.parts.learner.update, []

    def recorded(
        groups: Sequence[RolloutGroup], *arguments: Any, **options: Any
    ) -> dict[str, float]:
        sizes.append([len(group.responses) for group in groups])
        return update(groups, *arguments, **options)

    trainer.parts.learner.update = recorded  # type: ignore[method-assign]
    trainer.run()
    return RunRecords.read(directory / "run"), sizes, probe_rollouts


def rows_of(records: RunRecords, step: int) -> tuple[list[Row], list[Row]]:
    """Return the full groups and the probes of a step."""
    rows = [row for row in records.journal if row["step"] == step]
    return [row for row in rows if row["kind"] != "reprobe"], [
        row for row in rows if row["kind"] == "reprobe"
    ]


def test_full_groups_alone_are_trained_on(
    probed_run: tuple[RunRecords, list[list[int]], int],
) -> None:
    records, sizes, probe_rollouts = probed_run
    assert any(row["informative"] for row in records.journal if row["kind"] == "reprobe") == (
        probe_rollouts > 1
    )
    assert [len(groups) for groups in sizes] == [row["train/groups"] for row in records.metrics[1:]]
    assert {size for groups in sizes for size in groups} == {G}


def test_books_balance_with_probes(probed_run: tuple[RunRecords, list[list[int]], int]) -> None:
    records, _, probe_rollouts = probed_run
    total = 0
    for row in records.metrics[1:]:
        groups, probes = rows_of(records, row["step"])
        assert {len(group["rewards"]) for group in groups} == {G}
        assert {len(probe["rewards"]) for probe in probes} <= {probe_rollouts}
        assert row["rollout/groups"] == len(groups)
        assert row["selection/drawn_reprobe"] == len(probes)
        assert row["rollout/sequences"] == G * len(groups) + probe_rollouts * len(probes)
        assert row["rollout/tokens"] == sum(group["tokens"] for group in groups + probes)
        assert row["rollout/informative_share"] == pytest.approx(
            sum(group["informative"] for group in groups) / len(groups)
        )
        assert row["rollout/unknown_share"] == 0.0, "what was not asked for is not unknown"
        total += row["rollout/sequences"]
    assert records.metrics[-1]["rollout/sequences_total"] == total
    assert sum(len(rows_of(records, row["step"])[1]) for row in records.metrics) > 8
    draw_ids = [row["draw_id"] for row in records.journal]
    assert draw_ids == [*range(len(draw_ids))]


def test_probes_are_rolled_out_within_the_budget_of_the_rounds(
    probed_run: tuple[RunRecords, list[list[int]], int],
) -> None:
    """Each round of draws costs the groups that it asked for, to within one.

    That is carried over; the first round of a step asks for the whole batch.
    """
    records, _, _ = probed_run
    for row in records.metrics[1:]:
        assert (
            PROMPTS_PER_STEP * G - G
            < row["rollout/sequences"]
            < PROMPTS_PER_STEP * G * row["rollout/rounds"] + G
        )


def test_the_report_shows_probes_and_judges_by_full_groups(
    probed_run: tuple[RunRecords, list[list[int]], int],
) -> None:
    records, _, _ = probed_run
    run = records.directory

    def judged_plots() -> list[bytes]:
        assert write_report(run).is_file()
        return [
            (run / "plots" / f"{name}.png").read_bytes() for name in ("calibration", "prediction")
        ]

    with_probes, journal = judged_plots(), (run / "journal.jsonl").read_text()
    assert "selection/drawn_reprobe" in (run / "report.html").read_text()
    (run / "journal.jsonl").write_text(
        "".join(
            line
            for line in journal.splitlines(keepends=True)
            if json.loads(line)["kind"] != "reprobe"
        )
    )
    assert judged_plots() == with_probes
    (run / "journal.jsonl").write_text(journal)
