"""The report of a dry run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from depo.config import TrainConfig
from depo.sampler.core import rule_traits
from depo.training.distributed.cluster import reservation_bundles
from depo.training.dry_run.inspection import (
    Machine,
    Problems,
    Source,
    check_machine,
    check_rollouts,
    check_settings,
    look_at_policy,
    look_at_sources,
)
from depo.training.dry_run.memory import MemoryModel
from depo.training.dry_run.shapes import EstimatorShape, Lengths, PolicyShape


def dry_run(config: TrainConfig) -> int:
    """Print what a run of `config` is, needs and will do, and the problems that would stop it.

    Nothing is written and no part of the run started.

    Returns:
        Exit status: 0, or 1 if there are problems.
    """
    problems = Problems()
    machine = Machine.here(Path(config.run.directory))
    architecture, tokenizer = look_at_policy(config, problems)
    train, held_out = look_at_sources(config, tokenizer, problems)
    sources = [*train, *held_out]
    check_settings(config, train, problems)
    check_machine(config, machine, problems)
    limit = check_rollouts(config, architecture, tokenizer, problems)
    shape = None
    if architecture is not None:
        with problems.reading(
            "warm_start"
            if config.policy.is_tiny
            else f"policy.model: got {config.policy.model!r}, expected a causal LM"
        ):
            shape = PolicyShape.of(architecture)
    lines = [
        *_run_lines(config, shape),
        *_data_lines(sources, limit, problems),
        *_rollout_lines(config, held_out),
    ]
    lengths = _lengths(config, sources, limit)
    estimator = _estimator_shape(config, shape.vocabulary if shape else 1, lengths, problems)
    if shape is not None:
        memory = _memory_model(config, machine, shape, lengths, estimator)
        lines += [*_memory_lines(memory), *_checkpoint_lines(memory)]
        _check_room(memory, machine, problems)
    lines += _machine_lines(config, machine)
    print("\n".join([*lines, "", *_problem_lines(problems)]))
    return 1 if problems else 0


def _memory_model(
    config: TrainConfig,
    machine: Machine,
    policy: PolicyShape,
    lengths: Lengths,
    estimator: EstimatorShape | None,
) -> MemoryModel:
    device = config.run.device
    return MemoryModel(
        config=config,
        policy=policy,
        lengths=lengths,
        estimator=estimator,
        on_gpu=device.startswith("cuda") or (device == "auto" and bool(machine.gpus)),
        gpu_bytes=min(machine.gpus, default=0),
    )


def _lengths(config: TrainConfig, sources: Sequence[Source], limit: int) -> Lengths:
    known = np.concatenate(
        [source.lengths for source in sources if source.lengths is not None]
        or [np.array([1, limit])]
    )
    return Lengths(
        shortest_prompt=int(known.min()),
        longest_prompt=min(int(known.max()), limit),
        response=config.rollout.max_new_tokens,
    )


def _estimator_shape(
    config: TrainConfig, vocabulary: int, lengths: Lengths, problems: Problems
) -> EstimatorShape | None:
    estimator = None
    if config.has_estimator:
        with problems.reading(
            f"estimator.model: got {config.estimator.model!r}, expected an encoder"
            if config.estimator.model
            else "estimator"
        ):
            estimator = EstimatorShape.of(config.estimator, vocabulary, lengths.longest_prompt)
    return estimator


def _run_lines(config: TrainConfig, shape: PolicyShape | None) -> Iterator[str]:
    run, selection, estimator = config.run, config.selection, config.estimator
    yield (
        f"run {run.name}: {run.steps:,} steps of {run.prompts_per_step} prompts x "
        f"{config.rollout.group_size} responses, in {Path(run.directory) / run.name}"
    )
    parts = (
        ""
        if shape is None
        else (
            f": {shape.parameters:,} parameters, {shape.layers} layers of width {shape.width:,}, "
            f"vocabulary {shape.vocabulary:,}"
        )
    )
    yield f"policy {config.policy.model}{parts}"
    reader = (
        f"read by {estimator.model or 'a fresh encoder'} ({estimator.preset})"
        if config.has_estimator
        else "not read by an estimator"
    )
    yield (
        f"selection {selection.preset} ({selection.rule}), prompts {reader}; loss "
        f"{config.loss.preset}; reward {config.reward.function}"
    )


def _data_lines(sources: Sequence[Source], limit: int, problems: Problems) -> Iterator[str]:
    yield (
        "\ndata (prompts, and their tokens: half have at most, 95 % have at most, the longest has)"
    )
    for source in sources:
        line = f"  {source.label}: {len(source.prompts):,} prompts"
        if source.lengths is not None:
            half, most, longest = np.quantile(
                source.lengths, (0.5, 0.95, 1.0), method="inverted_cdf"
            )
            line += f"; {half:,}, {most:,}, {longest:,}"
            if too_long := int((source.lengths > limit).sum()):
                problems.append(
                    f"{source.label}: {too_long:,} prompts have more than {limit:,} tokens "
                    f"(rollout.max_prompt_tokens, or the policy's positions)"
                )
        yield line


def _rollout_lines(config: TrainConfig, held_out: Sequence[Source]) -> Iterator[str]:
    selection, prompts, group = (
        config.selection,
        config.run.prompts_per_step,
        config.rollout.group_size,
    )
    sequences = prompts * group
    rounds = selection.backfill_rounds if selection.backfill else 1
    most = f" to {sequences * rounds:,}" if rounds > 1 else ""
    yield "\nper step"
    yield (
        f"  rollouts: {sequences:,}{most} responses, at most "
        f"{sequences * rounds * config.rollout.max_new_tokens:,} tokens"
    )
    if config.has_estimator:
        traits = rule_traits(selection.rule)
        # A rule that reads no text scores only what it draws when it searches the whole pool.
        draws_at_once = selection.candidates_from == "pool" and not traits.reads_text
        draws = not traits.compares_candidates or draws_at_once
        compared = f"{prompts:,}" if draws else f"{prompts * selection.candidates_per_draw:,}"
        yield (
            f"  candidates scored: {prompts:,} in the first {selection.warmup_steps} steps, "
            f"then {compared} or more, at most {prompts * selection.scan_cap:,}"
        )
    evaluated = sum(len(source.prompts) for source in held_out) * config.evaluation.samples
    evaluated += config.evaluation.probe_prompts * group
    if config.run.eval_every != "off" and evaluated:
        yield f"  an evaluation, every {config.run.eval_every} steps: {evaluated:,} responses"


def _memory_lines(memory: MemoryModel) -> Iterator[str]:
    yield (
        f"\nmemory, for sequences of at most {memory.lengths.longest:,} tokens; leave a third "
        f"for what is not counted"
    )
    for process in memory.processes():
        yield (
            f"  {process.count} x {process.name}, {_bytes(process.peak)} on the "
            f"{'GPU' if process.on_gpu else 'CPU'}"
        )
        yield from (f"    {_bytes(size):>9}  {name}" for name, size in process.held.items())
        choice = ", one at a time" if len(process.phases) > 1 else ""
        yield from (
            f"    {_bytes(size):>9}  {name}{choice}" for name, size in process.phases.items()
        )
        if process.generates:
            yield (
                f"    {_bytes(memory.kv_per_sequence):>9}  of these are keys and values of one "
                f"sequence"
            )
        if process.transit:
            yield f"    {_bytes(process.transit):>9}  on the host while weights are on their way"
    if memory.object_store:
        yield f"  Ray's object store, {_bytes(memory.object_store)}"


def _checkpoint_lines(memory: MemoryModel) -> Iterator[str]:
    kept = (
        f"{memory.config.run.keep_checkpoints} are kept, so that up to {_bytes(_disk(memory))} "
        f"are on disk while one is written"
    )
    yield f"\ncheckpoint: {_bytes(memory.checkpoint)} and the sampler's state; {kept}"


def _machine_lines(config: TrainConfig, machine: Machine) -> Iterator[str]:
    gpus = f"{len(machine.gpus)} GPUs of {_bytes(min(machine.gpus))}" if machine.gpus else "no GPU"
    yield (
        f"\nthis machine: {machine.cpus} CPUs, {_bytes(machine.memory)}, {gpus}, "
        f"{_bytes(machine.disk)} free on disk"
    )
    settings = config.distributed
    if settings.uses_ray:
        asked = [resources for _, resources in reservation_bundles(settings, config.has_estimator)]
        amounts = " and ".join(
            f"{sum(resources[kind] for resources in asked):g} {kind}s" for kind in ("CPU", "GPU")
        )
        where = (
            f"the cluster at {settings.address}, whose resources are looked at when the run starts"
            if settings.address
            else "this machine"
        )
        yield f"asked: {len(asked)} actors with {amounts}, on {where}"
        if (
            settings.address
            and settings.overlap
            and config.has_estimator
            and config.estimator.model
        ):
            yield (
                f"note: the estimator actor reads estimator.model on its own node; "
                f"{config.estimator.model} has to be there too"
            )


def _check_room(memory: MemoryModel, machine: Machine, problems: Problems) -> None:
    """Note what this machine is too small for; of a cluster's machines nothing is known."""
    if _disk(memory) > machine.disk:
        problems.append(
            f"run.directory: checkpoints need {_bytes(_disk(memory))}, {_bytes(machine.disk)} are "
            f"free"
        )
    processes = list(memory.processes())[: 1 if memory.config.distributed.address else None]
    host = sum(process.count * process.host for process in processes) + memory.object_store
    if host > machine.memory:
        problems.append(
            f"memory: the host needs {_bytes(host)}, this machine has {_bytes(machine.memory)}"
        )
    problems.extend(
        f"memory: a {process.name} needs {_bytes(process.peak)}, a GPU here has "
        f"{_bytes(memory.gpu_bytes)}"
        for process in processes
        if process.on_gpu and 0 < memory.gpu_bytes < process.peak
    )


def _disk(memory: MemoryModel) -> int:
    return (memory.config.run.keep_checkpoints + 1) * memory.checkpoint


def _problem_lines(problems: Problems) -> list[str]:
    if not problems:
        return ["no problems found"]
    return [
        f"{len(problems)} problem{'s' * (len(problems) > 1)}:",
        *(f"  {number}. {problem}" for number, problem in enumerate(problems, start=1)),
    ]


def _bytes(size: float) -> str:
    """Return three digits and a unit."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:,.1f} GiB"
