"""The learner's weights on their way into vLLM, through its own weight-transfer interface.

To be imported after `prepare_vllm`.

vLLM ships backends between processes on GPUs: "nccl", and "ipc" for two processes that share a GPU.
None of them works inside one process or on a CPU, so "depo" is registered beside them: it hands
over the tensors themselves, through a Ray actor their copies, and to several processes that share a
model a file in memory.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from vllm.distributed.weight_transfer.base import (
    TrainerInitInfo,
    TrainerWeightTransferEngine,
    VLLMWeightSyncClient,
    WeightSource,
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import (
    WeightTransferEngineFactory,
    WeightTransferTrainerFactory,
)
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)

Backend = Literal["depo", "nccl", "ipc"]

MEMORY = Path("/dev/shm")
"""Directory of Linux whose files are in memory."""

ROOM_PER_BYTE = 1.1
"""Free bytes required in MEMORY per byte of parameters; other processes write there too."""


@dataclass
class TensorInitInfo(WeightTransferInitInfo):  # type: ignore[misc]
    """Hold nothing: both sides need no settings."""


@dataclass
class TensorUpdateInfo(WeightTransferUpdateInfo):  # type: ignore[misc]
    """Parameters by their names in the learner's model, of any float type.

    Attributes:
        tensors: The parameters themselves, on any device.
        file: Path of a safetensors file that holds them, for processes on one machine.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    file: str = ""

    def parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Yield name and parameter; those of the file are read one at a time."""
        yield from self.tensors.items()
        if self.file:
            with safe_open(self.file, framework="pt") as tensors:
                yield from ((name, tensors.get_tensor(name)) for name in tensors.keys())  # noqa: SIM118


@dataclass
class TensorTrainerInitInfo(TrainerInitInfo):  # type: ignore[misc]
    """Settings of the learner's side.

    Attributes:
        n_workers: Processes that share the engine's model.
    """

    backend: ClassVar[str] = "depo"
    n_workers: int = 1


class TensorTransferEngine(WeightTransferEngine):  # type: ignore[misc]
    """The engine's side: load parameters as from a checkpoint, layer by layer."""

    init_info_cls = TensorInitInfo
    update_info_cls = TensorUpdateInfo

    def init_transfer_engine(self, init_info: TensorInitInfo) -> None:
        """Do nothing: there is no connection."""

    def start_weight_update(self) -> None:
        """Allocate parameters in the checkpoint's layout."""
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: TensorUpdateInfo) -> None:
        """Load parameters."""
        with torch.no_grad():
            self.model.load_weights(update_info.parameters())

    def finish_weight_update(self) -> None:
        """Convert all parameters into the kernels' layout."""
        finalize_layerwise_reload(self.model, self.model_config)
        repack_shared_weights(self.model)

    def shutdown(self) -> None:
        """Do nothing."""


class TensorTrainerTransferEngine(TrainerWeightTransferEngine):  # type: ignore[misc]
    """The learner's side: send all parameters in one update."""

    init_info_cls = TensorTrainerInitInfo
    n_workers = 1

    @classmethod
    def trainer_init(
        cls,
        init_info: TensorTrainerInitInfo,
        *,
        client: VLLMWeightSyncClient,
        source: WeightSource | None = None,
    ) -> TensorTrainerTransferEngine:
        """Return the sender of `source`, on every rank of the learner."""
        engine = cls(client=client, source=source, is_sender=init_info.is_sender)
        engine.n_workers = init_info.n_workers
        if engine.is_sender:
            client.init_weight_transfer_engine({})
        return engine

    def send_weights(self) -> None:
        """Gather the parameters, a collective of sharded learners; rank 0 updates the engine."""
        tensors = {name: tensor.detach() for name, tensor in self.source}
        if not self.is_sender:
            return
        if self.n_workers == 1:
            self._update({"tensors": tensors})
            return
        # One file, of which each process reads its part; vLLM would pickle all for each process.
        with tempfile.TemporaryDirectory(dir=_roomy(tensors)) as directory:
            file = str(Path(directory, "weights.safetensors"))
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
            self._update({"file": file})

    def _update(self, update_info: dict[str, Any]) -> None:
        self.client.start_weight_update()
        self.client.update_weights(update_info)
        self.client.finish_weight_update()


def _roomy(tensors: dict[str, Tensor]) -> Path | None:
    """Return the directory in memory if it has room for the parameters, else None.

    In containers it is often too small. None stands for the default temporary directory.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    return (
        MEMORY
        if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM_PER_BYTE * size
        else None
    )


def repack_shared_weights(model: nn.Module) -> None:
    """Pack again, for the CPU's kernels, every weight that several modules share.

    vLLM 0.32 packs an embedding that is also the head only at its first load. After an update, the
    head would still use the old weights. Modules without packed weights, such as all modules on a
    GPU, have no `cpu_linear`.
    """
    sharing: defaultdict[int, list[Any]] = defaultdict(list)
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.numel() and hasattr(module, "cpu_linear"):
            sharing[weight.data_ptr()].append(module)
    for modules in sharing.values():
        for module in modules if len(modules) > 1 else []:
            module.quant_method.process_weights_after_loading(module)


def register_backend() -> None:
    """Register "depo" with vLLM's factories; calling it twice is fine."""
    for factory, engine in (
        (WeightTransferEngineFactory, TensorTransferEngine),
        (WeightTransferTrainerFactory, TensorTrainerTransferEngine),
    ):
        if TensorTrainerInitInfo.backend not in factory._registry:
            factory.register_engine(TensorTrainerInitInfo.backend, engine)


def sender_init_info(
    backend: Backend,
    *,
    rank: int = 0,
    master_address: str = "",
    master_port: int = 0,
    n_workers: int = 1,
) -> TrainerInitInfo:
    """Return what the learner's side of a backend is initialised with.

    For `WeightTransferTrainerFactory.trainer_init`.

    "nccl" and "ipc" follow vLLM's source and were never run by the tests, which have no GPU.

    Args:
        backend: "depo"; "nccl" when learner and engines have GPUs of their own; "ipc" when two
            processes share one.
        rank: Rank among the learner's processes; 0 sends.
        master_address: nccl: where rank 0 listens.
        master_port: nccl: at which port.
        n_workers: depo: processes that share the engine's model. nccl: workers of all engines
            together, one per GPU.
    """
    if backend == "depo":
        return TensorTrainerInitInfo(rank=rank, n_workers=n_workers)
    if backend == "ipc":
        from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

        return IPCTrainerInitInfo(rank=rank, packed=True)
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

    return NCCLTrainerInitInfo(
        rank=rank, master_address=master_address, master_port=master_port, world_size=1 + n_workers
    )
