"""Add pass rates to a data set as columns.

They come from recorded rollouts, a trained difficulty estimator, or both.

    python examples/offline_scores.py PROMPTS OUT.parquet --log LOG ... [--estimator DIRECTORY]

PROMPTS is JSONL, Parquet or a Hub name in any layout that depo reads; LOG anything that `depo
replay` reads; DIRECTORY what an estimator's `save_pretrained` wrote, such as a checkpoint's
`estimator`. OUT, JSONL or Parquet, has the rows of PROMPTS with these columns more:

    prompt_id                         depo's identity of the prompt pass_rate, n
    share of the n recorded rollouts that succeeded; n = 0: predicted from the text
                                      (verifiers environments that filter by `difficulty_key`: name
                                      pass_rate; also for filters of your own)
    pass_rate_early, pass_rate_late   the same over the first and the last half of the prompt's
    recorded groups
                                      (Trinity's `difficulty_based` selector: the two
                                      `feature_keys`)
    difficulty                        pass_rate in eighths, "3/8" (POLARIS)

What is neither recorded nor predicted is null. A prompt is found in a log by its id or by its text,
white space at the ends aside.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from depo import DataError, Prompt
from depo.config import SourceConfig
from depo.data.layouts import prompts_from_rows
from depo.data.rows import read_rows
from depo.estimator import BertDifficultyEstimator
from depo.replay.log_formats import read_log

Scores = dict[str, Any]


def recorded_scores(logs: Sequence[Path]) -> dict[str, Scores]:
    """Return the scores of each recorded prompt, by its id and by its text."""
    log = read_log(logs, with_texts=True)
    scores: dict[str, Scores] = {}
    for position, prompt in enumerate(log.prompts):
        records = np.flatnonzero(log.prompt_positions == position)  # in the order of their step
        if not records.size:
            continue
        half = (records.size + 1) // 2
        spans = {
            "pass_rate": records,
            "pass_rate_early": records[:half],
            "pass_rate_late": records[-half:],
        }
        rates = {
            name: float(log.successes[span].sum() / log.rollouts[span].sum())
            for name, span in spans.items()
        }
        scores[prompt.id] = scores[prompt.text.strip()] = {
            **rates,
            "n": int(log.rollouts[records].sum()),
        }
    return scores


def predicted_scores(directory: Path, prompts: Sequence[Prompt]) -> list[Scores]:
    """Return what an estimator says of each prompt."""
    rates = BertDifficultyEstimator.from_pretrained(directory).predict(
        [prompt.text for prompt in prompts]
    )
    return [
        {
            "pass_rate": float(rate),
            "pass_rate_early": float(rate),
            "pass_rate_late": float(rate),
            "n": 0,
        }
        for rate in rates
    ]


def scored_rows(
    prompts: Sequence[Prompt], recorded: Mapping[str, Scores], predicted: Sequence[Scores]
) -> list[dict[str, Any]]:
    """Return the rows of the prompts with the columns above."""
    unknown: Scores = {"pass_rate": None, "pass_rate_early": None, "pass_rate_late": None, "n": 0}
    rows = []
    for position, prompt in enumerate(prompts):
        scores = (
            recorded.get(prompt.id)
            or recorded.get(prompt.text.strip())
            or (predicted[position] if predicted else unknown)
        )
        difficulty = None if scores["pass_rate"] is None else f"{round(8 * scores['pass_rate'])}/8"
        rows.append({**prompt.columns, "prompt_id": prompt.id, **scores, "difficulty": difficulty})
    return rows


def write_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write JSONL or, if the name ends so, Parquet."""
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows]), path)
    else:
        path.write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, write the file and say what was found."""
    parser = argparse.ArgumentParser(description="pass rates as columns of a data set")
    parser.add_argument("prompts")
    parser.add_argument("out", type=Path)
    parser.add_argument("--log", type=Path, nargs="+", default=[])
    parser.add_argument("--estimator", type=Path)
    given = parser.parse_args(arguments)
    prompts = prompts_from_rows(read_rows(given.prompts), SourceConfig(path=given.prompts))
    recorded = recorded_scores(given.log) if given.log else {}
    rows = scored_rows(
        prompts, recorded, predicted_scores(given.estimator, prompts) if given.estimator else []
    )
    counts = [
        sum(row["n"] > 0 for row in rows),
        sum(row["n"] == 0 and row["pass_rate"] is not None for row in rows),
    ]
    if not any(counts):
        raise DataError(
            f"{given.prompts}: got no prompt that is in the log, expected the prompts of that "
            f"run, or --estimator"
        )
    write_rows(rows, given.out)
    print(
        f"{given.out}: {len(rows)} prompts, {counts[0]} with recorded and {counts[1]} with "
        f"predicted pass rates"
    )


if __name__ == "__main__":
    main()
