"""Return vLLM's engine arguments, and check that vLLM can run a policy."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from depo.config import VllmConfig

CPU_KV_CACHE_BYTES = 1 << 30
"""Bytes of keys and values on a CPU if `vllm.kv_cache_mib` is auto."""

WORKER = "depo.rollout.vllm.worker.BackendKnown"


def engine_options(
    config: VllmConfig, policy: PreTrainedModel, *, max_model_len: int, on_cpu: bool
) -> dict[str, Any]:
    """Return vLLM's engine arguments."""
    if config.kv_cache_mib == "auto":
        kv_cache_bytes = CPU_KV_CACHE_BYTES if on_cpu else None
    else:
        kv_cache_bytes = config.kv_cache_mib << 20
    own_dtype = str(policy.dtype).removeprefix("torch.")
    options = {
        "dtype": own_dtype if config.dtype == "auto" else config.dtype,
        "seed": 0,
        "max_model_len": max_model_len,
        "kv_cache_memory_bytes": kv_cache_bytes,
        "gpu_memory_utilization": config.gpu_memory_share,
        "enforce_eager": config.eager or on_cpu,
        "logprobs_mode": "processed_logprobs",
        "generation_config": "vllm",
        "enable_prefix_caching": True,
        "load_format": "dummy",
        "skip_tokenizer_init": True,
        "use_tqdm_on_load": False,
    }
    if on_cpu:  # it cannot rewind a generator, so a seeded request must not be split
        options |= {
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(4096, max_model_len),
        }
    if config.tensor_parallel > 1:
        options |= {
            "tensor_parallel_size": config.tensor_parallel,
            "distributed_executor_backend": "mp",
            "worker_extension_cls": WORKER,
        }
    return options


def check_heads(policy: PreTrainedConfig, tensor_parallel: int, *, on_cpu: bool) -> None:
    """Check that vLLM can split and compute the attention heads of a policy.

    vLLM itself would reject a head size only at the first request.

    Raises:
        ValueError: The heads cannot be divided among the processes, or vLLM has no CPU kernel for
            their size.
    """
    config = policy.get_text_config()
    heads = config.num_attention_heads
    if heads % tensor_parallel:
        raise ValueError(
            f"vllm.tensor_parallel: got {tensor_parallel}, expected a divisor of the policy's "
            f"{heads} attention heads"
        )
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    if max(kv_heads, tensor_parallel) % min(kv_heads, tensor_parallel):
        raise ValueError(
            f"vllm.tensor_parallel: got {tensor_parallel}, expected a divisor or a multiple of "
            f"the policy's {kv_heads} heads of keys and values"
        )
    if not on_cpu:
        return
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    size, supported = (
        getattr(config, "head_dim", None) or config.hidden_size // heads,
        CPUAttentionBackend.get_supported_head_sizes(),
    )
    if size not in supported:
        raise ValueError(
            f"policy: got attention heads of size {size}, expected one of {supported}: vLLM has "
            f"no others on a CPU"
        )
