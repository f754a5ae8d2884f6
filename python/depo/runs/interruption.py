"""Ctrl-C that waits: who works in steps finishes the one at hand, saves, and then ends."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interruptible(announce: Callable[[], None] = lambda: None) -> Iterator[list[int]]:
    """Collect the first SIGINT or SIGTERM instead of dying of it; a second one acts as always.

    Args:
        announce: Called when the first one arrives, to say what happens now.

    Yields:
        The numbers of the signals received: empty, or one.
    """
    received: list[int] = []
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def remember(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        restore()
        announce()

    for number in previous:
        signal.signal(number, remember)
    try:
        yield received
    finally:
        restore()
