"""What a configuration refers to, looked at without changing anything.

Files of the policy, prompts, packages, this machine. Every problem is noted.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from depo.config import SourceConfig, TrainConfig
from depo.data import check_seed_overlap, load_prompts, without_trained
from depo.rewards import load_reward
from depo.rollout.prompts import encode_prompts
from depo.rollout.requests import prompt_positions, stop_tokens
from depo.rollout.vllm.host import prepare_vllm
from depo.rollout.vllm.options import check_heads
from depo.sampler import PromptSampler
from depo.training.distributed.cluster import (
    cluster_expected,
    probe,
    reservation_bundles,
    set_up_ray,
)
from depo.training.learner.shaping import AdvantageShaper
from depo.training.warm_start import outline_policy
from depo.types.errors import ConfigError, install_hint
from depo.types.records import Int64Array, Prompt

CONFIG_FILE, TOKENIZER_FILES = "config.json", "tokenizer*"
POLICY_FILES = (CONFIG_FILE, TOKENIZER_FILES, "*.safetensors")


class Problems(list[str]):
    """Reasons why a run would not start or not fit."""

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note what the block raises over something that the user can mend, and go on."""
        try:
            yield
        except (
            ValueError,
            OSError,
            ImportError,
        ) as error:  # ConfigError and DataError are ValueErrors
            self.append(str(error).strip())

    @contextmanager
    def reading(self, subject: str) -> Iterator[None]:
        """Note that transformers makes no sense of `subject`.

        Over a broken file it raises anything, at length, and seldom names it.
        """
        try:
            yield
        except ConfigError as error:
            self.append(str(error))
        except Exception as error:
            first_line, *_ = str(error).strip().splitlines() or [""]
            self.append(f"{subject}: {type(error).__name__}: {first_line}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Prompts of one table of `data.train` or `data.eval`.

    Attributes:
        label: Its name, task or path.
        prompts: Without duplicates.
        lengths: int64 [N] tokens of each; None without a tokenizer or prompts.
    """

    label: str
    prompts: Sequence[Prompt]
    lengths: Int64Array | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """This machine.

    Attributes:
        cpus: Logical CPUs.
        memory: Bytes.
        gpus: Memory of each GPU in bytes.
        disk: Free bytes where run directories live.
    """

    cpus: int
    memory: int
    gpus: tuple[int, ...]
    disk: int

    @classmethod
    def here(cls, directory: Path) -> Machine:
        """Look at this machine, and at the file system that `directory` lies in or would."""
        existing = next(
            path for path in (directory.absolute(), *directory.absolute().parents) if path.exists()
        )
        gpus = tuple(
            torch.cuda.get_device_properties(index).total_memory
            for index in range(torch.cuda.device_count())
        )
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return cls(
            cpus=os.cpu_count() or 1,
            memory=memory,
            gpus=gpus,
            disk=shutil.disk_usage(existing).free,
        )


def look_at_policy(
    config: TrainConfig, problems: Problems
) -> tuple[PretrainedConfig | None, PreTrainedTokenizerBase | None]:
    """Return the policy's configuration and tokenizer, as far as their files are there.

    The weights are not read.
    """
    architecture: PretrainedConfig | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    if config.policy.is_tiny:
        with problems.noted():
            tokenizer, architecture = outline_policy(
                config.data.train, config.data.eval, config.warm_start
            )
        return architecture, tokenizer
    directory = Path(config.policy.model)
    missing = [pattern for pattern in POLICY_FILES if not any(directory.glob(pattern))]
    if missing:
        problems.append(
            f"policy.model: got {config.policy.model!r}, expected the directory of a Hugging Face "
            f"causal LM; it lacks {', '.join(missing)}. "
            f"Download it there: hf download ORGANISATION/{directory.name} --local-dir {directory}"
        )
    if CONFIG_FILE not in missing:
        with problems.reading(
            f"policy.model: got {config.policy.model!r}, expected {CONFIG_FILE} of a causal LM"
        ):
            architecture = AutoConfig.from_pretrained(directory, local_files_only=True)
    if TOKENIZER_FILES not in missing:
        with problems.reading(
            f"policy.model: got {config.policy.model!r}, expected a tokenizer that can be read"
        ):
            tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    return architecture, tokenizer


def check_rollouts(
    config: TrainConfig,
    architecture: PretrainedConfig | None,
    tokenizer: PreTrainedTokenizerBase | None,
    problems: Problems,
) -> int:
    """Hold the policy against what its engine asks of it, as far as it is known.

    Also return how many tokens a prompt may have.
    """
    limit = config.rollout.max_prompt_tokens
    if tokenizer is not None:
        with problems.noted():
            stop_tokens(config.rollout.stop, tokenizer)
    if architecture is None:
        return limit
    with problems.noted():
        limit = min(limit, prompt_positions(architecture, config.rollout.max_new_tokens))
    elsewhere = config.distributed.address and config.distributed.rollout_workers
    if config.rollout.engine == "vllm" and not elsewhere and find_spec("vllm"):
        with problems.noted():
            check_heads(architecture, config.vllm.tensor_parallel, on_cpu=prepare_vllm())
    return limit


def look_at_sources(
    config: TrainConfig, tokenizer: PreTrainedTokenizerBase | None, problems: Problems
) -> tuple[list[Source], list[Source]]:
    """Load data.train and data.eval, without held-out prompts that are trained on.

    A table that cannot be loaded is left out.
    """
    train = _load_sources("train", config.data.train, [], tokenizer, problems)
    return train, _load_sources(
        "eval",
        config.data.eval,
        [prompt for source in train for prompt in source.prompts],
        tokenizer,
        problems,
    )


def _load_sources(
    name: str,
    tables: Sequence[SourceConfig],
    trained_on: Sequence[Prompt],
    tokenizer: PreTrainedTokenizerBase | None,
    problems: Problems,
) -> list[Source]:
    sources = []
    for table in tables:
        with problems.noted():
            prompts = without_trained(load_prompts([table]), trained_on)
            lengths = (
                np.array([ids.size for ids in encode_prompts(prompts, tokenizer, 1 << 62)])
                if tokenizer and prompts
                else None
            )
            sources.append(
                Source(
                    label=f"{name} {table.name or table.task or table.path}",
                    prompts=prompts,
                    lengths=lengths,
                )
            )
    return sources


def check_settings(config: TrainConfig, train: Sequence[Source], problems: Problems) -> None:
    """Build what needs neither the policy nor another process.

    Also look for packages that the rest needs.
    """
    with problems.noted():
        if not config.data.train:
            raise ConfigError(
                "data.train: got no source, expected at least one [[data.train]] table"
            )
        check_seed_overlap(config.data.train, config.data.eval)
    with problems.noted():
        load_reward(config.reward).close()
    with problems.noted():
        AdvantageShaper(config)
    if train:
        distinct = {prompt.id: prompt for source in train for prompt in source.prompts}
        with problems.noted():
            PromptSampler(
                list(distinct.values()),
                config.rollout.group_size,
                config.selection,
                seed=config.run.seed,
            )
    for needed, package in (
        (config.rollout.engine == "vllm", "vllm"),
        (config.distributed.uses_ray, "ray"),
    ):
        if needed and find_spec(package) is None:
            problems.append(f"the package {package} is missing: {install_hint(package)}")


def check_machine(config: TrainConfig, machine: Machine, problems: Problems) -> None:
    """Check that the requested GPUs are there.

    On this machine, or on the cluster at the configured address.
    """
    settings = config.distributed
    asked = sum(
        resources["GPU"] for _, resources in reservation_bundles(settings, config.has_estimator)
    )
    if config.run.device.startswith("cuda") and not machine.gpus:
        problems.append(f"run.device: got {config.run.device!r}, but torch finds no GPU here")
    if settings.address and find_spec("ray"):
        with problems.noted(), cluster_expected(settings.address):
            probe(_looked_up(settings.address))
    elif not settings.address and asked > len(machine.gpus):
        problems.append(
            f"distributed: asks for {asked:g} GPUs, this machine has {len(machine.gpus)}; "
            f"distributed.address names a cluster"
        )


def _looked_up(address: str) -> str:
    """Return HOST:PORT of a cluster, for "auto" that which `ray.init` would join.

    Ray has no public name for this.
    """
    if address != "auto":
        return address
    set_up_ray(local=False)
    from ray._private.services import get_ray_address_from_environment

    return str(get_ray_address_from_environment(address, None))
