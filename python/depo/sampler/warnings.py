"""What a sampler warns of, each once.

Batches that had to be filled up or came out short, and a window that rejects nobody.
"""

from __future__ import annotations

import logging

from depo.config.selector import SelectorConfig

IDLE_CALLS = 20  # batches in which a window rejects nobody before it is warned of

logger = logging.getLogger(__name__)


class SamplerWarnings:
    """Watches the batches of one sampler.

    Args:
        config: The sampler's settings.
    """

    def __init__(self, config: SelectorConfig) -> None:
        self.config = config
        self._warned: set[str] = set()
        self._calls_without_reject = 0

    def shortage(self, n: int, drawn: int, filled: int, candidates: str) -> None:
        """Warn of a batch of `drawn` prompts, of n wanted, `filled` of them rejected ones.

        `candidates` says what they were drawn from.
        """
        if filled:
            message = (
                f"{filled} of {n} draws are the nearest rejected prompts: too few were "
                f"admitted within {self.config.scan_cap} candidates per draw"
            )
            self._once("fill", message)
        if drawn < n:
            self._once(
                "short", f"{drawn} draws instead of {n}: {candidates} has no more free prompts"
            )

    def idle_window(self, policy_version: int, rejected: bool) -> None:
        """Warn of a window that everything passes: it costs what uniform sampling costs.

        The usual cause is an estimator that does not learn.
        """
        selecting = self.config.rule == "window" and policy_version >= self.config.warmup_steps
        self._calls_without_reject = (
            self._calls_without_reject + 1 if selecting and not rejected else 0
        )
        if self._calls_without_reject == IDLE_CALLS:
            self._once(
                "idle",
                f"nothing was rejected in the last {IDLE_CALLS} batches: the estimator predicts "
                f"every prompt inside {self.config.window}",
            )

    def _once(self, topic: str, message: str) -> None:
        if topic not in self._warned:
            logger.warning("%s (counted in metrics; warned of once)", message)
        self._warned.add(topic)
