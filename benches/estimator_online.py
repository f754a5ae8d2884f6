"""Learning speed and CPU cost of the difficulty estimator on a synthetic online stream.

    OMP_NUM_THREADS=1 python benches/estimator_online.py --presets online depo_paper --seeds 0 1

The stream imitates a tiny policy on digit tasks: families x lengths, pass rate (1 - error) **
length, errors that shrink while the policy learns, 40 % trivial and 40 % impossible prompts. Each
step scores `--candidates` prompts, then trains on the groups of the first 16, and after that on
`replay_steps` replayed batches. All candidates are judged by a group of 8 before the estimator
learns of any. `--set key=value` overrides a setting (value in JSON).

Measured with the command above (torch 2.13, one thread of a busy machine with two cores). AUROC is
that of P(informative); knowing the true pass rates it would be .91-.92. MAE is against the true
pass rate, ECE that of P(informative), pass the share predicted within [.15, .85], precision its
informative share (all prompts: .28-.35).

    online, .16 CPU ms per prompt, 67 per update  |  depo_paper with a fresh encoder, .31 CPU ms per
    prompt, 42 per update steps   AUROC  MAE   ECE   pass  precision    |  AUROC  MAE   ECE   pass
    precision
     0-5    .485   .327  .676  1.00  .29          |  .492   .421  .713  1.00  .28
     5-10   .725   .133  .446   .54  .38          |  .503   .412  .682  1.00  .31
    10-20   .811   .060  .101   .19  .91          |  .495   .412  .687  1.00  .30
    20-40   .820   .046  .039   .19  .93          |  .491   .406  .673  1.00  .32
    40-80   .875   .045  .023   .22  .91          |  .485   .378  .636  1.00  .35

Why `online` is what it is, each by `--steps 50 --candidates 96 --seeds 0 1 --set ...`; AUROC / ECE
by steps (two seeds: differences of AUROC below about .03 are noise), CPU ms per update:

                                                        10-20         20-40         40-50
    (the defaults)                                  .794 / .113   .827 / .046   .879 / .037    65
    pooling="cls"                                   .642 / .242   .799 / .112   .838 / .033    74
    ranking_weight=3.0                              .822 / .182   .836 / .103   .871 / .076    74
    replay_steps=1 replay_batch=64                  .732 / .354   .784 / .068   .833 / .071    51
    replay_steps=3                                  .773 / .127   .854 / .039   .866 / .022    98
    learning_rate=3e-3                              .816 / .075   .831 / .038   .854 / .027    70
    hidden_size=128 feed_forward=256                .801 / .156   .801 / .048   .824 / .055   105
    the same and learning_rate=1e-3                 .806 / .337   .819 / .095   .864 / .052   119
    layers=1                                        .779 / .141   .826 / .044   .852 / .036    58
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from depo.config import EstimatorConfig
from depo.config.estimator import ESTIMATOR_PRESETS
from depo.estimator import BertDifficultyEstimator
from depo.sampler.calibration import auroc, expected_calibration_error
from depo.types.records import TargetBatch

Array = NDArray[np.float64]
GROUP_SIZE = 8
TRAINED = 16
FAMILIES = {"Copy": 0.0, "Reverse": 0.5, "Sort": 0.3, "Add": 2.5, "Multiply": 3.5}
"""Family -> hardness: added to the logit of the error per digit."""
LENGTHS = {
    "trivial": ("Copy Reverse Sort", 1, 2),
    "frontier": ("Copy Reverse Sort", 4, 13),
    "impossible": ("Add Multiply", 4, 7),
}


@dataclass(frozen=True)
class Stream:
    """Simulated prompts of one step.

    Texts, true pass rates [C], rewards of a group as pass rates [C], exp(mean log-prob) [C].
    """

    texts: list[str]
    true_rates: Array
    rates: Array
    logprobs: Array


def digit_tokenizer() -> PreTrainedTokenizerFast:
    """Return a word-level tokenizer with single digits and no CLS token, like.

    That of a small decoder.
    """
    words = ["<pad>", "<eos>", "<unk>", *FAMILIES, "the", "digits", ".", *"0123456789"]
    tokenizer = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("[0-9]"), "isolated")]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )


def draw_step(rng: np.random.Generator, step: int, count: int) -> Stream:
    """Draw `count` prompts and what a policy of that age makes of them."""
    texts, errors, lengths = [], [], []
    for band in rng.choice(list(LENGTHS), size=count, p=(0.4, 0.2, 0.4)):
        names, low, high = LENGTHS[band]
        family, length = rng.choice(names.split()), int(rng.integers(low, high + 1))
        texts.append(f"{family} the digits {''.join(map(str, rng.integers(10, size=length)))} .")
        logit = (
            -2.2
            - 0.015 * step
            + FAMILIES[family]
            + rng.normal(0, 0.3)
            - (2 if band == "trivial" else 0)
        )
        errors.append(1 / (1 + np.exp(-logit)))
        lengths.append(length)
    true_rates = (1 - np.array(errors)) ** np.array(lengths)
    logprobs = np.clip((1 - np.array(errors)) * np.exp(rng.normal(0, 0.05, count)), 1e-4, 1 - 1e-4)
    return Stream(texts, true_rates, rng.binomial(GROUP_SIZE, true_rates) / GROUP_SIZE, logprobs)


def target_batch(texts: Sequence[str], rates: Array, logprobs: Array) -> TargetBatch:
    """Return unweighted targets."""
    ones = np.ones(len(texts), np.float32)
    return TargetBatch(
        texts=texts,
        reward_targets=rates.astype(np.float32),
        logprob_targets=logprobs.astype(np.float32),
        counts=ones * GROUP_SIZE,
        weights=ones,
    )


def run(
    config: EstimatorConfig, seed: int, steps: int, candidates: int
) -> tuple[list[tuple[Array, Stream]], float, float]:
    """Run the stream.

    Return per-step (predictions [C], stream), CPU ms per predicted prompt and CPU ms per update.
    """
    rng = np.random.default_rng(seed)
    estimator = BertDifficultyEstimator(config, digit_tokenizer(), seed=seed)
    history = []
    replay: list[tuple[str, float, float]] = []
    predict_seconds = update_seconds = 0.0
    for step in range(steps):
        stream = draw_step(rng, step, candidates)
        start = time.process_time()
        predictions = estimator.predict(stream.texts).astype(np.float64)
        predict_seconds += time.process_time() - start
        history.append((predictions, stream))
        fresh = list(
            zip(
                stream.texts[:TRAINED],
                stream.rates[:TRAINED],
                stream.logprobs[:TRAINED],
                strict=True,
            )
        )
        replay = (replay + fresh)[-512:]
        drawn = [
            rng.choice(len(replay), min(config.replay_batch, len(replay)), replace=False)
            for _ in range(config.replay_steps)
        ]
        batches = [fresh, *([replay[index] for index in indices] for indices in drawn)]
        targets = [
            target_batch(
                [row[0] for row in batch],
                np.array([row[1] for row in batch]),
                np.array([row[2] for row in batch]),
            )
            for batch in batches
        ]
        start = time.process_time()
        estimator.update(targets)
        update_seconds += time.process_time() - start
    return (history, 1e3 * predict_seconds / (steps * candidates), 1e3 * update_seconds / steps)


def describe(histories: Sequence[Sequence[tuple[Array, Stream]]], first: int, last: int) -> str:
    """Return the metrics of steps first .. last - 1, pooled over runs."""
    chosen = [entry for history in histories for entry in history[first:last]]
    predicted = np.concatenate([predictions for predictions, _ in chosen])
    true_rates = np.concatenate([stream.true_rates for _, stream in chosen])
    rates = np.concatenate([stream.rates for _, stream in chosen])
    informative = (rates > 0) & (rates < 1)
    p_informative, p_best = (
        1 - rate**GROUP_SIZE - (1 - rate) ** GROUP_SIZE for rate in (predicted, true_rates)
    )
    passed = (predicted >= 0.15) & (predicted <= 0.85)
    precision = informative[passed].mean() if passed.any() else float("nan")
    ranked, best = auroc(p_informative, informative), auroc(p_best, informative)
    return (
        f"{first:3}-{last:<3} AUROC {ranked:.3f} (true rates: {best:.3f})  MAE "
        f"{np.abs(predicted - true_rates).mean():.3f}"
        f"  ECE {expected_calibration_error(p_informative, informative):.3f}"
        f"  pass {passed.mean():.2f}  precision {precision:.2f}  base {informative.mean():.2f}"
    )


def main() -> None:
    """Run the presets over the seeds and print one table each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", nargs="+", default=["online"], choices=list(ESTIMATOR_PRESETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--candidates", type=int, default=128)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    parsed = {
        name: json.loads(value) for name, value in (item.split("=", 1) for item in arguments.set)
    }
    for preset in arguments.presets:
        config = EstimatorConfig.from_preset(preset, **parsed)
        results = [
            run(config, seed, arguments.steps, arguments.candidates) for seed in arguments.seeds
        ]
        print(
            f"{preset} {parsed}: {np.mean([r[1] for r in results]):.3f} CPU ms per prompt, "
            f"{np.mean([r[2] for r in results]):.1f} CPU ms per update"
        )
        for first, last in ((0, 5), (5, 10), (10, 20), (20, 40), (40, 80)):
            if first < arguments.steps:
                print(
                    "  ",
                    describe([result[0] for result in results], first, min(last, arguments.steps)),
                    flush=True,
                )


if __name__ == "__main__":
    main()
