"""Register depo's weight transfer in the processes that share a model.

vLLM imports this module there, as `worker_extension_cls`.
"""

from depo.rollout.vllm.transfer import register_backend

register_backend()


class BackendKnown:
    """Add nothing to a worker; importing this module is enough."""
