"""What a configuration refers to, looked at without changing anything: files of the policy, prompts, packages, this machine. Every problem is noted."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from depo.config import DistributedConfig, SourceConfig, TrainConfig
from depo.data import check_seed_overlap, load_prompts
from depo.errors import ConfigError
from depo.records import Int64Array, Prompt
from depo.rewards import load_reward
from depo.rollout.prompts import encode_prompts
from depo.sampler import PromptSampler
from depo.shaping import AdvantageShaper
from depo.warm_start import outline_policy

CONFIG_FILE, TOKENIZER_FILES = "config.json", "tokenizer*"
POLICY_FILES = (CONFIG_FILE, TOKENIZER_FILES, "*.safetensors")
CONNECT_SECONDS = 5.0


class Problems(list[str]):
    """Every reason why a run would not start or not fit."""

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note what the block raises over something that the user can mend, and go on."""
        try:
            yield
        except (ValueError, OSError, ImportError) as error:  # ConfigError and DataError are ValueErrors
            self.append(str(error).strip())


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Prompts of one table of `data.train` or `data.eval`.

    Attributes:
        label: Its name, task or path.
        prompts: Without duplicates.
        lengths: int64 [N] tokens of each; None without a tokenizer.
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
        existing = next(path for path in (directory.absolute(), *directory.absolute().parents) if path.exists())
        gpus = tuple(torch.cuda.get_device_properties(index).total_memory for index in range(torch.cuda.device_count()))
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return cls(cpus=os.cpu_count() or 1, memory=memory, gpus=gpus, disk=shutil.disk_usage(existing).free)


def look_at_policy(config: TrainConfig, problems: Problems) -> tuple[PretrainedConfig | None, PreTrainedTokenizerBase | None]:
    """Return the policy's configuration and tokenizer, as far as their files are there; the weights are not read."""
    architecture: PretrainedConfig | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    directory = Path(config.policy.model)
    missing = [pattern for pattern in POLICY_FILES if config.policy.model and not any(directory.glob(pattern))]
    if missing:
        problems.append(
            f"policy.model: got {config.policy.model!r}, expected the directory of a Hugging Face causal LM; it lacks {', '.join(missing)}. "
            f"Download it there: hf download ORGANISATION/{directory.name} --local-dir {directory}"
        )
    if not config.policy.model:
        with problems.noted():
            tokenizer, architecture = outline_policy(config.data.train, config.data.eval, config.warm_start)
        return architecture, tokenizer
    if CONFIG_FILE not in missing:
        with problems.noted():
            architecture = AutoConfig.from_pretrained(directory, local_files_only=True)
    if TOKENIZER_FILES not in missing:
        with problems.noted():
            tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    return architecture, tokenizer


def look_at_sources(name: str, tables: Sequence[SourceConfig], tokenizer: PreTrainedTokenizerBase | None, problems: Problems) -> list[Source]:
    """Load the tables of `name`, data.train or data.eval; one that cannot be loaded is left out."""
    sources = []
    for table in tables:
        with problems.noted():
            prompts = load_prompts([table])
            lengths = np.array([ids.size for ids in encode_prompts(prompts, tokenizer, 1 << 62)]) if tokenizer else None
            sources.append(Source(label=f"{name} {table.name or table.task or table.path}", prompts=prompts, lengths=lengths))
    return sources


def check_settings(config: TrainConfig, train: Sequence[Source], problems: Problems) -> None:
    """Build what needs neither the policy nor another process, and look for packages that the rest needs."""
    with problems.noted():
        if not config.data.train:
            raise ConfigError("data.train: got no source, expected at least one [[data.train]] table")
        check_seed_overlap(config.data.train, config.data.eval)
    with problems.noted():
        load_reward(config.reward).close()
    with problems.noted():
        AdvantageShaper(config)
    if train:
        distinct = {prompt.id: prompt for source in train for prompt in source.prompts}
        with problems.noted():
            PromptSampler(list(distinct.values()), config.rollout.group_size, config.selection, seed=config.run.seed)
    for needed, package in ((config.rollout.engine == "vllm", "vllm"), (config.distributed.uses_ray, "ray")):
        if needed and find_spec(package) is None:
            problems.append(f"the package {package} is missing: pip install 'depo[{package}]'")


def check_machine(config: TrainConfig, machine: Machine, problems: Problems) -> None:
    """Hold the GPUs asked for against those of this machine, or the cluster's address against what answers there."""
    asked, settings = asked_gpus(config.distributed), config.distributed
    if config.run.device.startswith("cuda") and not machine.gpus:
        problems.append(f"run.device: got {config.run.device!r}, but torch finds no GPU here")
    if ":" in settings.address:
        host, _, port = settings.address.rpartition(":")
        with problems.noted():
            try:
                socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
            except OSError as error:
                raise ConfigError(f"distributed.address: got {settings.address!r}, expected a Ray cluster that runs: {error}") from error
    elif not settings.address and asked > len(machine.gpus):
        problems.append(f"distributed: asks for {asked:g} GPUs, this machine has {len(machine.gpus)}; distributed.address names a cluster")


def asked_gpus(settings: DistributedConfig) -> float:
    """Return the GPUs that all actors ask for together."""
    ranks = settings.learner_ranks if settings.learner_ranks > 1 else 0
    return settings.rollout_workers * settings.rollout_gpus + ranks * settings.learner_gpus + settings.overlap * settings.estimator_gpus
