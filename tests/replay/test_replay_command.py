"""`depo replay` as users call it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from depo.cli import main, train_main
from depo.config.presets import SELECTOR_PRESETS
from depo.replay.measures import MEASURES
from tests.replay.replay_helpers import G
from tests.sampler.sampler_helpers import make
from tests.training.tiny import TINY_CONFIG

SAMPLE = Path(__file__).parents[1] / "data" / "one_shot_rlvr_sample.jsonl"
SHARED = Path(os.environ.get("DEPO_SHARED", Path(__file__).parents[3] / "shared" / "data"))
REAL_LOG = SHARED / "passrates" / "grpo_log_qwen2.5math1.5b_g8.jsonl"


def replay(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_:
        main(["replay", *map(str, arguments)])
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


def results_of(path: Path) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = json.loads(path.read_text())["results"]
    return results


def without_times(path: Path) -> Any:
    content = json.loads(path.read_text())
    content["results"] = [
        {name: value for name, value in result.items() if not name.startswith("cpu")}
        for result in content["results"]
    ]
    return content


def mean(
    results: list[dict[str, Any]], selector: str, budget: float, name: str = "informative_share"
) -> float:
    return float(
        np.mean(
            [
                result[name]
                for result in results
                if (result["selector"], result["budget"]) == (selector, budget)
            ]
        )
    )


def test_every_preset_is_replayed_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        replay(
            SAMPLE,
            "--seeds",
            2,
            "--budget",
            0.25,
            0.5,
            "--json",
            tmp_path / "out.json",
            "--plots",
            tmp_path / "plots",
            "--warm",
            2,
        )
        == 0
    )
    out, err = capsys.readouterr()
    assert "depo_paper is left out: it selects by text alone" in err
    assert (
        "12 prompts, 10 epochs, 120 groups of 8" in out
        and "budget 0.25" in out
        and "budget 0.5" in out
        and "Advice" not in out
    )
    names = [*(name for name in SELECTOR_PRESETS if name != "depo_paper"), "oracle", "hindsight"]
    content = json.loads((tmp_path / "out.json").read_text())
    assert [
        (result["budget"], result["selector"], result["seed"]) for result in content["results"]
    ] == [(budget, name, seed) for budget in (0.25, 0.5) for name in names for seed in (0, 1)]
    assert all(
        MEASURES.keys() < result.keys() and result["warm"] == 2 for result in content["results"]
    )
    assert content["log"]["prompts"] == 12
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {
        "informative_by_budget.png",
        "reliability.png",
        "informative_by_tick.png",
    }


def test_overrides_are_settings_of_depo(tmp_path: Path) -> None:
    arguments = (SAMPLE, "--selectors", "depo,mopps", "--seeds", 1, "--budget", 0.3)
    replay(*arguments, "--json", tmp_path / "plain.json")
    replay(
        *arguments,
        "--selection.max_age",
        2,
        "--selection.reprobe_share",
        1,
        "--json",
        tmp_path / "aged.json",
    )
    plain, aged = results_of(tmp_path / "plain.json"), results_of(tmp_path / "aged.json")
    assert aged[0]["max_age"] < plain[0]["max_age"]
    assert aged[1]["informative_share_by_tick"] == plain[1]["informative_share_by_tick"]


def test_shortages_are_not_warned_of_in_a_replay_but_after_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    replay(SAMPLE, "--selectors", "greso", "--seeds", 1, "--budget", 1)
    assert caplog.text == ""
    make(size=5).sample(8, policy_version=0)
    assert "no more free prompts" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.jsonl"], r"absent.jsonl: no such file or directory"),
        (
            [SAMPLE, "--selectors", "best"],
            r"--selectors: got 'best', expected some of uniform, dapo",
        ),
        (
            [SAMPLE, "--selectors", "depo_paper"],
            r"--selectors: got depo_paper, expected one that does not need --encoder",
        ),
        ([SAMPLE, "--budget", "0"], r"--budget: got 0.0, expected shares in \(0, 1\]"),
        ([SAMPLE, "--budget", "many"], r"argument --budget: invalid float value: 'many'"),
        ([SAMPLE, "--seeds", "0"], r"--seeds: got 0, expected an integer >= 1"),
        ([SAMPLE, "--warm", "10"], r"--warm: got 10, expected fewer than the log's 10 ticks"),
        ([SAMPLE, "--warm", "-1"], r"--warm: got -1, expected an integer >= 0"),
        (
            [SAMPLE, "--selector", "depo"],
            r"unknown argument --selector; did you mean --selectors\?",
        ),
        ([SAMPLE, "--ticks", "0"], r"--ticks: got 0, expected an integer >= 1"),
        (
            [SAMPLE, "--selection.reprobe_share", "2"],
            r"selection.reprobe_share: got 2.0, expected a value \[0..1\] \(on the command line\)$",
        ),
        (
            [SAMPLE, "--selection.max_age", "old"],
            r"--selection.max_age: got 'old', expected an integer or 'off'$",
        ),
        (
            [SAMPLE, "--selection.preset", "greso"],
            r"--selection.preset: choose presets with --selectors",
        ),
        ([SAMPLE, "--encoder", "own"], r"--encoder: got own, expected the directory of an encoder"),
        (
            [SAMPLE, "--encoder", "absent"],
            r"estimator.model: got 'absent', expected a directory with a Hugging Face encoder",
        ),
        ([], r"the following arguments are required: LOG"),
    ],
)
def test_mistakes_end_in_one_line(
    arguments: list[object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay(*arguments) == 2
    err = capsys.readouterr().err.splitlines()
    assert re.search(message, err[-1]) and err[-1].startswith("depo replay: error: ")


def write_log(path: Path, n: int = 100, ticks: int = 12) -> Path:
    rng = np.random.default_rng(0)
    counts_NK = rng.binomial(G, rng.beta(0.4, 0.4, n)[:, None], (n, ticks))
    rows = [
        {
            "id": f"p{index}",
            "question": f"w{index % 20}",
            "group_size": G,
            "n_correct_by_visit": counts.tolist(),
        }
        for index, counts in enumerate(counts_NK)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_ctrl_c_finishes_the_tick_and_the_same_command_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        str(write_log(tmp_path / "log.jsonl")),
        "--selectors",
        "depo,uniform",
        "--seeds",
        "30",
        "--budget",
        "0.3",
    ]
    state, interrupted, whole = (
        tmp_path / "state",
        tmp_path / "interrupted.json",
        tmp_path / "whole.json",
    )
    command = [
        sys.executable,
        "-c",
        "from depo.cli import main; main()",
        "replay",
        *arguments,
        "--state",
        str(state),
        "--json",
        str(interrupted),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    while process.poll() is None and not any(state.glob("*/latest")):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "interrupted; the same command goes on from here" in out and not interrupted.exists()

    assert replay(*arguments, "--state", state, "--json", interrupted) == 0
    assert replay(*arguments, "--json", whole) == 0
    assert without_times(interrupted) == without_times(whole)
    capsys.readouterr()
    assert replay(*arguments, "--state", state, "--batch", 5) == 2
    assert "holds a replay with another batch" in capsys.readouterr().err


def test_without_texts_nothing_heavy_is_loaded() -> None:
    """rich shows progress on terminals only, matplotlib draws on request, torch reads texts."""
    heavy = "{'torch', 'transformers', 'matplotlib', 'rich', 'pydantic', 'pyarrow', 'datasets'}"
    code = f"""
import sys
from depo.cli import main
try:
    main(["replay", {str(SAMPLE)!r}, "--seeds", "1", "--selectors", "depo,oracle"])
except SystemExit as exit_:
    assert exit_.code == 0
loaded = {heavy} & set(sys.modules)
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with random weights in Hugging Face's layout."""
    import torch
    from transformers import BertConfig, BertModel

    from tests.estimator.estimator_helpers import WORDS, word_tokenizer

    directory = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 256,
    }
    BertModel(BertConfig(vocab_size=len(WORDS), **sizes)).save_pretrained(directory)
    word_tokenizer().save_pretrained(directory)
    return directory


def test_text_that_tells_helps_before_there_is_history(encoder: Path, tmp_path: Path) -> None:
    """Prompts with an even word are half solved, the others never.

    After a few batches the text says which.
    """
    rows = [
        {
            "id": f"p{i}",
            "question": f"w{i % 20} w{i % 20}",
            "group_size": 8,
            "n_correct_by_visit": [4 * (i % 2 == 0)],
        }
        for i in range(600)
    ]
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = (log, "--selectors", "depo", "--seeds", 1, "--budget", 0.3, "--batch", 8)
    assert replay(*arguments, "--encoder", encoder, "--json", tmp_path / "text.json") == 0
    assert replay(*arguments, "--json", tmp_path / "history.json") == 0
    text, history = results_of(tmp_path / "text.json"), results_of(tmp_path / "history.json")
    assert mean(text, "depo", 0.3) > mean(history, "depo", 0.3) + 0.1


def test_interrupted_replays_with_a_text_model_go_on_the_same(
    encoder: Path, tmp_path: Path
) -> None:
    from depo.replay import read_log
    from depo.replay.encoder import TextModels
    from depo.replay.selectors import replay_config
    from depo.replay.suite import Job, Result, Suite, Terms
    from tests.replay.replay_helpers import DEPO

    log = read_log([write_log(tmp_path / "log.jsonl", n=20, ticks=3)])
    jobs = [Job("depo", 0.3, 0), Job("depo_paper", 0.3, 1)]

    def run(directory: Path | None, ticks: int) -> list[Result] | None:
        configs = {name: replay_config(name, DEPO) for name in ("depo", "depo_paper")}
        terms = Terms(
            configs=configs,
            warm=0,
            batch=4,
            encoder=str(encoder),
            text_models=TextModels(str(encoder), log, None),
        )
        seen: list[int] = []
        return Suite(log, terms, directory).run(
            jobs, on_tick=seen.append, interrupted=lambda: len(seen) == ticks
        )

    whole = run(None, -1)
    while (resumed := run(tmp_path / "state", 1)) is None:
        pass
    assert whole is not None
    for name in {*MEASURES, "informative_share_by_tick"}:
        np.testing.assert_array_equal(
            [result[name] for result in resumed], [result[name] for result in whole], err_msg=name
        )


def test_a_run_of_ours_is_replayed_with_its_own_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run makes cheap probes, too."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(TINY_CONFIG)
    with pytest.raises(SystemExit) as exit_:
        train_main(["tiny.toml", "--selection.max_age", "4"])
    assert exit_.value.code == 0
    arguments = (
        "runs/run",
        "--selectors",
        "depo_paper,greso,depo,oracle",
        "--seeds",
        1,
        "--budget",
        0.5,
    )
    assert replay(*arguments, "--encoder", "own", "--json", "out.json") == 0
    out = capsys.readouterr().out
    assert "Advice: this log cannot tell" in out.splitlines()[-1]
    assert [result["selector"] for result in results_of(Path("out.json"))] == [
        "depo_paper",
        "greso",
        "depo",
        "oracle",
    ]
    rows = [json.loads(line) for line in Path("runs/run/journal.jsonl").read_text().splitlines()]
    groups = {
        (row["step"], row["prompt_id"])
        for row in rows
        if row["status"] == "labelled" and len(row["rewards"]) == G
    }
    probes = sum(row["kind"] == "reprobe" for row in rows)
    assert json.loads(Path("out.json").read_text())["log"]["groups"] == len(groups)
    assert probes > 0 and f"{probes} probes with fewer than {G} rollouts are left out" in out


def test_the_real_log_ranks_selectors_as_a_small_simulation_does(tmp_path: Path) -> None:
    """An independent simulation of 44 epochs of the same log gets, at budgets .3 and .5.

    Greso .718 and .732, mopps .823 and .732, uniform .493.
    """
    if not REAL_LOG.is_file():
        pytest.skip(f"no {REAL_LOG}: set DEPO_SHARED to the folder of the real data sets")
    runs = {
        "others": ("--selectors", "uniform,greso,mopps", "--seeds", 1),
        "depo": ("--selectors", "depo", "--seeds", 3),
        "aged": ("--selectors", "depo", "--seeds", 1, "--selection.max_age", 10),
    }
    for name, arguments in runs.items():
        assert replay(REAL_LOG, "--ticks", 44, *arguments, "--json", tmp_path / f"{name}.json") == 0
    others, ours, aged = (results_of(tmp_path / f"{name}.json") for name in runs)
    for budget, greso, mopps, depo, aged_depo in (
        (0.3, 0.718, 0.823, 0.905, 0.88),
        (0.5, 0.732, 0.732, 0.79, 0.78),
    ):
        assert mean(others, "uniform", budget) == pytest.approx(0.494, abs=0.02)
        assert mean(others, "greso", budget) == pytest.approx(greso, abs=0.03)
        assert mean(others, "mopps", budget) == pytest.approx(mopps, abs=0.03)
        assert depo <= mean(ours, "depo", budget)
        assert aged_depo <= mean(aged, "depo", budget)
        assert mean(ours, "depo", budget, "early_informative_share") >= 0.58
    assert all(result["max_age"] <= 10 for result in aged)
    pooled = [
        entry
        for name in runs
        for entry in json.loads((tmp_path / f"{name}.json").read_text())["pooled"]
    ]
    assert all(entry["ece"] <= 0.03 for entry in pooled)
