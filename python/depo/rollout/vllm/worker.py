"""What the processes that share a model import (vLLM's `worker_extension_cls`).

So that they too can be sent weights.
"""

from depo.rollout.vllm.transfer import register_backend

register_backend()


class BackendKnown:
    """Adds nothing to a worker."""
