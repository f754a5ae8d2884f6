"""Reports: they show what a run has recorded, say what it has not, and let nothing but text in."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depo.config import RunConfig, TrainConfig
from depo.runs.metric_files import Journal, MetricsLog, StepRows
from depo.runs.report import comparison_table, write_comparison, write_report
from depo.runs.report.charts import smooth
from depo.runs.report.journal import JournalColumns, mean_by_step
from depo.runs.report.page import bullets, page, paragraph, preformatted, section, table
from depo.runs.report.run_sections import ending
from depo.runs.run_records import RunRecords
from depo.types.errors import DataError
from depo.types.records import Draw, DrawKind, Prompt, RolloutGroup, Verdict, VerdictStatus

PNG = b"\x89PNG\r\n\x1a\n"
G = 4


def write_run(
    directory: Path,
    *,
    steps: int = 12,
    estimator: bool = True,
    selection: bool = True,
    evaluate: bool = True,
    band: str = "frontier",
    seed: int = 0,
) -> Path:
    """Write a run of 4 groups per step through the real log.

    With 3 steps of warm-up, evaluations and probes every 4 steps.
    """
    rng = np.random.default_rng(seed)
    log, journal, probes = (
        MetricsLog(directory, resume_step=None),
        Journal(directory, resume_step=None),
        StepRows(directory / "probes.jsonl", resume_step=None),
    )
    for step in range(steps + 1):
        metrics = {} if step == 0 else step_metrics(step, selection)
        if evaluate and step % 4 == 0:
            metrics |= {
                "eval/accuracy": 0.25 + step / 100,
                f"eval/accuracy/{band}": 0.125 + step / 80,
            }
            for _ in range(6):
                probes.append(probe_row(step, float(rng.uniform()), bool(rng.uniform() < 0.5)))
        log.write(
            step,
            metrics,
            {"time/evaluate": 0.5}
            if step == 0
            else {"time/select": 0.03, "time/predict": 0.1, "time/observe": 0.01, "time/step": 2.0},
        )
        for index in range(4 if step else 0):
            journal.write(
                step,
                *group(step * 4 + index, rng, estimator=estimator, warmup=selection and step <= 3),
            )
    for file in (log, journal, probes):
        file.close()
    return directory


def step_metrics(step: int, selection: bool) -> dict[str, float]:
    informative = 0.25 if step <= 3 else 0.75
    return {
        "reward/mean": step / 20,
        "rollout/groups": 4.0,
        "rollout/informative_share": informative,
        "rollout/zero_variance_share": 1 - informative,
        "rollout/sequences_total": 4.0 * G * step,
        "rollout/tokens_total": 160.0 * step,
        "selection/reject_share": 0.5 * (selection and step > 3),
        "selection/sequences_saved_total": 1234.4 * (selection and step > 3),
        "calibration/auroc": float("nan"),
    }


def probe_row(step: int, believed: float, informative: bool) -> dict[str, object]:
    return {
        "step": step,
        "p_informative": believed,
        "predicted_reward": 0.5,
        "wanted": True,
        "informative": informative,
        "pass_rate": 0.5,
        "prompt_id": "p",
    }


def group(
    draw_id: int, rng: np.random.Generator, *, estimator: bool, warmup: bool
) -> tuple[Draw, RolloutGroup, np.ndarray, Verdict]:
    kind = (
        DrawKind.WARMUP if warmup else (DrawKind.EXPLORE if draw_id % 4 == 0 else DrawKind.SELECTED)
    )
    believed, predicted = (
        (float(rng.uniform()), float(rng.uniform(0.1, 0.9)))
        if estimator
        else (float("nan"), float("nan"))
    )
    prompt, version = Prompt(text="t"), draw_id // 4
    draw = Draw(
        draw_id=draw_id,
        prompt=prompt,
        predicted_reward=predicted,
        p_informative=believed,
        admission=0.5,
        kind=kind,
        n_rollouts=G,
        policy_version=version,
    )
    rewards = rng.integers(0, 2, G).astype(np.float32)
    ids, logprobs = (np.zeros(2, np.int64),) * G, (np.zeros(2, np.float32),) * G
    rollouts = RolloutGroup(
        prompt_ids=ids[0],
        response_ids=ids,
        rollout_logprobs=logprobs,
        finished=np.ones(G, bool),
        responses=("a",) * G,
        policy_version=version,
    )
    mean = float(rewards.mean())
    return (
        draw,
        rollouts,
        rewards,
        Verdict(
            draw_id=draw_id,
            status=VerdictStatus.LABELLED,
            informative=0 < mean < 1,
            mean_reward=mean,
            pass_rate=mean,
        ),
    )


class Page(HTMLParser):
    """What a browser would see: tags, texts, images, headings, table rows."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.texts: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [
            str(value) for name, value in attrs if name in ("src", "href", "srcset", "action")
        ]
        if tag == "tr":
            self.rows.append([])

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self.rows and self.tags[-1] in ("td", "th") and data.strip():
            self.rows[-1].append(data)

    def images(self) -> Iterator[bytes]:
        for link in self.links:
            kind, content = link.split(",", 1)
            assert kind == "data:image/png;base64"
            yield b64decode(content)

    def row(self, first: str) -> list[str]:
        return next(row for row in self.rows if row and row[0].startswith(first))

    @property
    def text(self) -> str:
        return "".join(self.texts)


ALL_PLOTS = {
    "reward",
    "accuracy",
    "prediction",
    "rejected",
    "informative",
    "generated",
    "calibration",
    "cpu",
}


def plots(directory: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in (directory / "plots").iterdir()}


@pytest.fixture(scope="module")
def full_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = write_run(tmp_path_factory.mktemp("full") / "run")
    write_report(directory)
    return directory


def test_a_report_holds_every_plot_and_needs_nothing_else(full_run: Path) -> None:
    page, drawn = Page(full_run / "report.html"), plots(full_run)
    assert drawn.keys() == ALL_PLOTS
    assert all(content.startswith(PNG) for content in drawn.values())
    assert sorted(page.images()) == sorted(drawn.values()), "the page embeds the plots themselves"
    assert "Left out" not in page.text.replace("Left out: the run has no config.toml", "")
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not re.search(r"https?:|@import|url\(", (full_run / "report.html").read_text())


def test_the_numbers_are_those_of_the_records(full_run: Path) -> None:
    page = Page(full_run / "report.html")
    assert page.row("sequences generated")[1] == "192"
    assert page.row("tokens generated")[1] == "1,920"
    assert page.row("informative groups")[:2] == [
        "informative groups, of those rolled out, steps after 3",
        "75.0 %",
    ]
    assert page.row("sequences saved")[1] == "1,234"
    assert page.row("CPU time that selection adds")[1] == "2.0 %"
    assert page.row("frontier") == ["frontier", "0.125", "0.275", "+0.150", "0, 12"]
    assert page.row("time/predict")[-2:] == ["1.200", "5.0 %"]
    assert page.row("reward/mean")[1:3] == ["0.600", "reward"]
    assert page.row("calibration/auroc")[1] == "–"
    assert page.row("eval/accuracy/frontier")[-1] == "eval/accuracy on the prompts of band frontier"


def test_equal_records_give_equal_bytes(full_run: Path, tmp_path: Path) -> None:
    page = write_report(write_run(tmp_path / "run"))
    assert page.read_bytes() == (full_run / "report.html").read_bytes()
    assert plots(tmp_path / "run") == plots(full_run)


NO_STEP = "no training step was done"


@pytest.mark.parametrize(
    ("settings", "left_out"),
    [
        (
            {"estimator": False, "selection": False},
            {"prediction": "no estimator", "rejected": "no candidate was rejected"},
        ),
        (
            {"steps": 4, "evaluate": False, "estimator": False},
            {
                "accuracy": "no held-out",
                "prediction": "no estimator",
                "calibration": "no P(informative)",
            },
        ),
        (
            {"steps": 0},
            dict.fromkeys(("reward", "rejected", "informative", "generated"), NO_STEP)
            | {"prediction": "no estimator", "calibration": "no P(informative)"},
        ),
    ],
    ids=["uniform", "no evaluation", "start alone"],
)
def test_what_was_not_recorded_is_left_out_with_its_reason(
    tmp_path: Path, settings: dict[str, Any], left_out: dict[str, str]
) -> None:
    (tmp_path / "plots").mkdir()
    for name in left_out:
        (tmp_path / "plots" / f"{name}.png").write_bytes(b"of an earlier report")
    page = Page(write_report(write_run(tmp_path, **settings)))
    assert plots(tmp_path).keys() == ALL_PLOTS - left_out.keys()
    assert len([*page.images()]) == len(ALL_PLOTS) - len(left_out)
    for reason in left_out.values():
        assert re.search(f"Left out: [^.]*{re.escape(reason)}", page.text)


def test_a_run_without_rows_and_a_directory_without_a_run(tmp_path: Path) -> None:
    MetricsLog(tmp_path / "empty", resume_step=None).close()
    assert "0 steps done" in Page(write_report(tmp_path / "empty")).text
    with pytest.raises(DataError, match=r"no metrics\.jsonl"):
        write_report(tmp_path)


@given(
    text=st.text(
        st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=20
    ).map(lambda text: text + '<script>alert("&")</script>')
)
def test_texts_stay_texts(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(
        page(
            text,
            text,
            [
                section(
                    text,
                    paragraph(text),
                    preformatted(text),
                    bullets([text]),
                    table([text], [[text]]),
                )
            ],
        ),
        encoding="utf-8",
    )
    found = Page(path)
    assert "script" not in found.tags
    assert found.text.count(text) == 9


def test_what_comes_from_data_is_escaped(tmp_path: Path) -> None:
    write_run(tmp_path, band="<b>$\\undefined$</b>")
    (tmp_path / "config.toml").write_text('[run]\nname = "<script>alert(1)</script>"\n')
    page = Page(write_report(tmp_path))
    assert not {"script", "b"} & set(page.tags)
    assert page.row("<b>$\\undefined$</b>")[1] == "0.125"
    assert '"<script>alert(1)</script>"' in page.text


@pytest.mark.parametrize(
    ("planned", "patience", "sentence"),
    [
        (12, 50, "Finished: 12 steps done."),
        (20, 6, "12 of 20 steps done: stopped, or still running."),
        (20, 5, "Stopped after 12 of 20 steps: no informative group in the last 5."),
    ],
)
def test_the_page_says_how_the_run_ended(
    tmp_path: Path, planned: int, patience: int, sentence: str
) -> None:
    write_run(tmp_path)
    log = MetricsLog(tmp_path, resume_step=7)
    for step in range(8, 13):
        log.write(step, {"rollout/informative_share": 0.0}, {})
    log.close()
    config = TrainConfig(run=RunConfig(steps=planned, stop_after_empty_steps=patience))
    assert ending(RunRecords.read(tmp_path), config) == sentence


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=120))
def test_smoothing_is_the_mean_over_neighbours(values: list[float]) -> None:
    reach = len(values) // 40
    expected = [
        np.mean(values[max(0, index - reach) : index + reach + 1]) for index in range(len(values))
    ]
    np.testing.assert_allclose(smooth(np.array(values)), expected, atol=1e-9)


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 1)), min_size=1, max_size=30))
def test_means_by_step(pairs: list[tuple[int, float]]) -> None:
    steps, means = mean_by_step(*np.array(pairs, np.float64).T)
    assert [*steps] == sorted({step for step, _ in pairs})
    np.testing.assert_allclose(
        means,
        [np.mean([value for step, value in pairs if step == wanted]) for wanted in steps],
        atol=1e-12,
    )


def test_pass_rates_count_known_rewards_alone() -> None:
    row = {
        "step": 1,
        "kind": "selected",
        "predicted_reward": None,
        "p_informative": 0.5,
        "admission": 1.0,
        "informative": True,
    }
    columns = JournalColumns.of(
        [{**row, "rewards": rewards} for rewards in ([1.0, None, 0.4, 0.5], [None, None])],
        success_threshold=0.5,
    )
    np.testing.assert_array_equal(columns.pass_rates, [2 / 3, np.nan])
    assert np.isnan(columns.predicted_rewards).all() and columns.last_warmup_step == 0


def comparison_of(seeds: list[int]) -> dict[str, object]:
    values = {
        "start_accuracy": 0.125,
        "steps": 150.0,
        "sequences": 19200.0,
        "tokens": 119000.5,
        "zero_variance_share": 0.766,
        "cpu_seconds": 12.34,
        "seeds": seeds,
    }
    methods = {
        "grpo": {"frontier_accuracy": 0.4352, "frontier_accuracy_sd": 0.0231, **values},
        "a|b": {"frontier_accuracy": 0.5, "frontier_accuracy_sd": 0.0, **values},
    }
    return {"methods": methods, "estimator": {"auroc": 0.912, "reject_share": float("nan")}}


def test_the_table_is_markdown_of_the_comparison() -> None:
    lines = comparison_table(comparison_of([1, 2])).splitlines()
    assert lines[0] == (
        "| method | frontier accuracy | at the start | steps | sequences | tokens | "
        "zero-variance groups | CPU seconds | seeds |"
    )
    assert (
        lines[2] == "| grpo | 0.435 ± 0.023 | 0.125 | 150 | 19,200 | 119,000 | 76.6 % | 12.3 | 2 |"
    )
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1, (
        "a method's name does not open a column"
    )
    assert "±" not in comparison_table(comparison_of([1])), "one seed has no spread"


def test_a_comparison_draws_every_method_and_says_what_it_does_not_claim(tmp_path: Path) -> None:
    records = {
        method: [
            RunRecords.read(
                write_run(
                    tmp_path / f"{method}-{seed}",
                    seed=seed,
                    selection=method == "depo",
                    steps=12 + 4 * seed,
                )
            )
            for seed in (0, 1)
        ]
        for method in ("grpo", "depo")
    }
    page = Page(write_comparison(records, comparison_of([0, 1]), tmp_path))
    assert plots(tmp_path).keys() == {"accuracy", "zero_variance", "generated"}
    assert sorted(page.images()) == sorted(plots(tmp_path).values())
    assert page.row("grpo")[1] == "0.435 ± 0.023"
    assert page.row("auroc")[1] == "0.912" and page.row("reject_share")[1] == "–"
    assert "CPU seconds" in page.text and "say nothing about other sizes" in page.text


def test_a_comparison_without_a_frontier_band_leaves_its_plot_out(tmp_path: Path) -> None:
    records = {"grpo": [RunRecords.read(write_run(tmp_path / "run", band="easy"))]}
    page = Page(write_comparison(records, comparison_of([0]), tmp_path))
    assert plots(tmp_path).keys() == {"zero_variance", "generated"}
    assert "Left out: no held-out prompt has the band frontier" in page.text
