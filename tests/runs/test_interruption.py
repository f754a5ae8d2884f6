"""The first signal is collected and announced, the second one acts.

Also afterwards all is as before.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from depo.runs.interruption import interruptible

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def _pythons_own_handler() -> Iterator[None]:
    """Let SIGINT act as in a foreground process.

    One that a shell started in the background ignores it.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_collected_and_the_second_acts(number: signal.Signals) -> None:
    announced: list[str] = []
    handlers = [signal.getsignal(each) for each in SIGNALS]
    with interruptible(lambda: announced.append("stopping")) as received:
        assert received == []
        signal.raise_signal(number)
        assert (received, announced) == ([number], ["stopping"])
        assert [signal.getsignal(each) for each in SIGNALS] == handlers
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert received == [number]


def test_handlers_are_given_back_whatever_happens() -> None:
    handlers = [signal.getsignal(each) for each in SIGNALS]
    with pytest.raises(ZeroDivisionError), interruptible():
        assert [signal.getsignal(each) for each in SIGNALS] != handlers
        raise ZeroDivisionError
    assert [signal.getsignal(each) for each in SIGNALS] == handlers
