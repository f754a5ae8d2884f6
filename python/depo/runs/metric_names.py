"""What a run reports: every metric's name, unit and meaning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Metric(NamedTuple):
    """Unit and meaning of a metric."""

    unit: str
    meaning: str


METRICS: Mapping[str, Metric] = {
    "reward/mean": Metric(
        "reward", "mean of all known rewards of the step's rollouts, trained on or not"
    ),
    "reward/timeouts": Metric("count", "verifications that ran out of time in the step: unknown"),
    "reward/crashes": Metric(
        "count", "verifications whose process died twice in the step: unknown"
    ),
    "reward/errors": Metric("count", "verifications that raised in the step: unknown"),
    "rollout/groups": Metric("groups", "rolled out for training in this step"),
    "rollout/informative_share": Metric(
        "share", "groups whose rewards differ, of all full groups generated in the step"
    ),
    "rollout/zero_variance_share": Metric(
        "share", "groups whose known rewards are all alike: no gradient"
    ),
    "rollout/unknown_share": Metric(
        "share", "rewards that are unknown: verifier failure, timeout, masked truncation"
    ),
    "rollout/truncated_share": Metric("share", "responses cut by the token budget"),
    "rollout/response_tokens_mean": Metric("tokens", "mean length of a response"),
    "rollout/sequences": Metric(
        "responses", "generated for training in this step, probes included"
    ),
    "rollout/tokens": Metric("tokens", "generated for training in this step"),
    "rollout/sequences_total": Metric("responses", "generated for training since the start"),
    "rollout/tokens_total": Metric("tokens", "generated for training since the start"),
    "rollout/rounds": Metric(
        "count", "rounds of draws that the step took; more than 1 only with backfill"
    ),
    "train/groups": Metric("groups", "in the training batch"),
    "selection/scanned": Metric("prompts", "candidates scored in the step"),
    "selection/rejected": Metric("prompts", "candidates scored and turned down in the step"),
    "selection/reject_share": Metric(
        "share",
        "rejected / scanned; policy budget: about 1 - 1 / candidates_per_draw by construction",
    ),
    "selection/drawn_explore": Metric("prompts", "drawn at random from the rejected in the step"),
    "selection/drawn_reprobe": Metric(
        "prompts",
        "drawn in the step because their last label was too old and they won no place; with "
        "probe_rollouts each",
    ),
    "selection/drawn_fill": Metric(
        "prompts", "drawn in the step although rejected, because too few passed"
    ),
    "selection/starved_total": Metric(
        "count", "batches since the start that had to be filled up with rejected prompts"
    ),
    "selection/oldest_label_age": Metric(
        "steps",
        "since the last label of the prompt that has waited longest; max_age bounds it where "
        "reprobe_share allows",
    ),
    "selection/sequences_saved_total": Metric(
        "responses",
        "what uniform sampling would have generated for as many informative groups, less what "
        "was; estimated, needs explore_share > 0",
    ),
    "belief/base_rate": Metric(
        "pass rate", "running mean over all labels, weighted by 1 / admission"
    ),
    "belief/prior_variance": Metric(
        "logits^2", "fitted: variance of the logit pass rate of a prompt without labels"
    ),
    "belief/text_precision": Metric(
        "1 / logits^2",
        "fitted: what the text prediction counts for, for a prompt without labels; 0: nothing",
    ),
    "belief/text_precision_labelled": Metric(
        "1 / logits^2", "fitted: the same for a prompt with labels"
    ),
    "belief/drift": Metric("logits per step", "fitted: how fast pass rates rise"),
    "belief/noise": Metric(
        "logits^2 per step", "fitted: variance of what pass rates do beyond that"
    ),
    "belief/spread": Metric("per step", "fitted: rate at which logit pass rates move away from 0"),
    "belief/base_concentration": Metric(
        "rollouts", "fitted (belief beta): what the base rate counts for"
    ),
    "belief/text_concentration": Metric(
        "rollouts", "fitted (belief beta): what the text prediction counts for; 0: nothing"
    ),
    "belief/discount": Metric("weight", "fitted (belief beta): of a past result after one step"),
    "calibration/brier": Metric(
        "probability^2", "mean squared error of P(informative), groups weighted by 1 / admission"
    ),
    "calibration/ece": Metric(
        "probability", "expected calibration error of P(informative), likewise weighted"
    ),
    "calibration/auroc": Metric(
        "probability",
        "an informative group was given a higher P(informative) than an uninformative one",
    ),
    "calibration/mae": Metric(
        "pass rate", "mean absolute error of the predicted reward against the group's pass rate"
    ),
    "calibration/false_reject_rate": Metric(
        "share", "informative groups among those that the policy alone would have rejected"
    ),
    "calibration/lost_share": Metric("share", "rejected groups among the informative ones"),
    "calibration/unfiltered_informative_share": Metric(
        "share", "informative groups, weighted by 1 / admission: what no filter would have seen"
    ),
    "estimator/loss": Metric("nats", "total loss of the estimator's update"),
    "estimator/score_loss": Metric("nats", "cross-entropy of the predicted reward"),
    "estimator/distill_loss": Metric(
        "nats", "cross-entropy of the predicted log-probability target"
    ),
    "estimator/ranking_loss": Metric("logits", "pairwise ranking loss"),
    "estimator/grad_norm": Metric("norm", "gradient norm before clipping"),
    "estimator/overflow_share": Metric(
        "share", "prompts longer than the estimator reads, since its last update"
    ),
    "estimator/skipped_steps": Metric(
        "count", "optimizer steps left out because loss or gradient was not finite"
    ),
    "loss/weight_min": Metric(
        "weight",
        "smallest factor of a trained group's advantages: loss.group_weighting and 1/admission",
    ),
    "loss/weight_max": Metric("weight", "largest factor of a trained group's advantages"),
    "loss/masked_share": Metric(
        "share", "tokens whose advantage loss.mask scaled, of those that have an advantage"
    ),
    "policy/loss": Metric("loss", "policy-gradient loss over the training batch"),
    "policy/grad_norm": Metric("norm", "gradient norm before clipping"),
    "policy/clip_share": Metric(
        "share",
        "tokens whose gradient was clipped away, or with surrogate cispo whose weight was bounded",
    ),
    "policy/ratio_mean": Metric(
        "ratio",
        "mean importance ratio policy / rollout, over sequences' tokens; with surrogate gspo the "
        "sequence's",
    ),
    "policy/kl": Metric("nats", "k3 estimate of KL(rollout policy || policy) per token"),
    "policy/reference_kl": Metric(
        "nats", "k3 estimate of KL(policy || reference policy) per token"
    ),
    "policy/logprob_mismatch": Metric(
        "nats",
        "mean |rollout - policy| log-probability before the first optimizer step; with "
        "policy/lag, what was learned since, too",
    ),
    "policy/lag": Metric(
        "versions",
        "by which the step's oldest rollouts are older than the policy that they train; "
        "distributed.max_policy_lag bounds it",
    ),
    "policy/rollout_weight": Metric(
        "weight",
        "loss.rollout_correction: mean truncated weight learner / rollout of the trained tokens",
    ),
    "policy/rollout_weight_capped": Metric(
        "share", "loss.rollout_correction: tokens whose weight was cut to rollout_correction_cap"
    ),
    "policy/entropy": Metric(
        "nats", "mean entropy of the next-token distribution over trained tokens"
    ),
    "policy/lr": Metric("rate", "learning rate of the step"),
    "policy/updated": Metric("0 or 1", "whether the optimizer moved"),
    "policy/trained_sequences": Metric(
        "responses",
        "that were run forward and backward: all but those whose advantage and KL term are 0",
    ),
    "eval/accuracy": Metric("share", "mean held-out reward, Avg@samples"),
    "probe/informative_share": Metric(
        "share", "informative groups among prompts drawn without any filter"
    ),
    "probe/auroc": Metric("probability", "as calibration/auroc, on the unfiltered probes"),
    "probe/false_reject_rate": Metric(
        "share", "informative groups among the probes that the policy would have rejected"
    ),
    "probe/lost_share": Metric("share", "rejected groups among the informative probes"),
    "probe/reject_share": Metric("share", "probes that the policy would have rejected"),
    "probe/mae": Metric("pass rate", "mean absolute error of the predicted reward on the probes"),
}
"""Every metric of metrics.jsonl, but for `eval/accuracy/BAND`, one for each difficulty band of the
held-out prompts.
"""

TIMINGS: Mapping[str, str] = {
    "time/select": "drawing prompts, predictions not counted",
    "time/predict": "scoring candidates with the estimator, those of the probes included",
    "time/rollout": "generating responses",
    "time/reward": "judging responses in this process",
    "time/observe": "recording rewards, drawing replay targets, calibration",
    "time/update": "the policy's update",
    "time/estimator_update": "the estimator's update",
    "time/evaluate": "held-out evaluation and probes",
    "time/step": "the whole step",
}
"""Every value of timings.jsonl: CPU seconds of this process, all threads."""


def describe(name: str) -> Metric:
    """Return unit and meaning of a metric.

    Raises:
        KeyError: No metric has this name.
    """
    band = name.removeprefix("eval/accuracy/")
    return (
        Metric("share", f"eval/accuracy on the prompts of band {band}")
        if band not in ("", name)
        else METRICS[name]
    )
