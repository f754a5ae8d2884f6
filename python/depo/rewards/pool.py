"""Run a function in worker processes, with a time limit for each call.

A verifier may hang inside C code, use all memory or crash. Signals and threads cannot stop that, so
a call beyond its limit ends with its process killed. Workers are fresh interpreters, not forks, so
they inherit no locks of the parent's threads. They exchange JSON lines over pipes.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any, Literal, Self

START_LIMIT_SECONDS = 120.0
"""Time limit of a worker's imports, which do not count against the limit of a call."""
READ_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one call.

    Attributes:
        value: What the function returned; None unless `failure` is "".
        failure: "" for a returned value; timeout: killed at the limit; crash: the process died,
            twice; error: the function raised.
        detail: The exception, for `error`.
    """

    value: Any = None
    failure: Literal["", "timeout", "crash", "error"] = ""
    detail: str = ""


class WorkerPool:
    """Runs one function in `workers` processes.

    Processes start on first use and are replaced when they die.
    """

    def __init__(
        self, function: str, *, workers: int, timeout_seconds: float, memory_bytes: int = 2 << 30
    ) -> None:
        """Describe the pool.

        Args:
            function: `module:function`, taking and returning JSON values.
            workers: Processes [>= 1].
            timeout_seconds: Wall-clock limit of one call [> 0].
            memory_bytes: Limit of a worker's address space; beyond it the function sees
                MemoryError.
        """
        self._arguments = (function, str(memory_bytes), str(timeout_seconds))
        self._timeout_seconds = timeout_seconds
        self._size = workers
        self._workers: list[_Worker] = []

    def map(self, calls: Sequence[Sequence[Any]]) -> list[Outcome]:
        """Return the outcome of `function(*call)` for every call, in order.

        Raises:
            RuntimeError: A worker process does not come up at all.
        """
        try:
            return self._map(calls)
        except BaseException:
            self.close()  # workers may still run calls of this map
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill all workers; calling it twice, or `map` afterwards, is fine."""
        for worker in self._workers:
            worker.kill()
        self._workers = []

    def _map(self, calls: Sequence[Sequence[Any]]) -> list[Outcome]:
        outcomes = [Outcome(failure="crash")] * len(calls)
        pending = deque(range(len(calls)))
        crashed: set[int] = set()
        while pending or any(worker.call is not None for worker in self._workers):
            self._workers += [
                _Worker(self._arguments)
                for _ in range(min(self._size, len(pending)) - len(self._workers))
            ]
            for worker in self._workers:
                if (
                    worker.idle
                    and pending
                    and worker.send(pending[0], calls[pending[0]], self._timeout_seconds)
                ):
                    pending.popleft()
            for call, outcome in self._wait():
                outcomes[call] = outcome
                if outcome.failure == "crash" and call not in crashed:
                    # Its worker may have been killed from outside (out of memory, an operator):
                    # only a second crash is the call's own.
                    crashed.add(call)
                    pending.append(call)
        return outcomes

    def _wait(self) -> Iterator[tuple[int, Outcome]]:
        """Wait for the next reply or deadline; yield finished calls and drop dead workers."""
        awaited = [worker for worker in self._workers if worker.alive and not worker.idle]
        with selectors.DefaultSelector() as selector:
            for worker in awaited:
                selector.register(worker.output, selectors.EVENT_READ)
            remaining = (
                min((worker.deadline for worker in awaited), default=time.monotonic())
                - time.monotonic()
            )
            readable = {key.fd for key, _ in selector.select(max(remaining, 0.0))}
        for worker in awaited:
            call = worker.call
            outcome = worker.receive(worker.output.fileno() in readable)
            if call is not None and outcome is not None:
                yield call, outcome
        self._workers = [worker for worker in self._workers if worker.alive]


class _Worker:
    """One process: starting, idle, busy with `call`, or dead."""

    def __init__(self, arguments: Sequence[str]) -> None:
        # A session of its own keeps the terminal's Ctrl-C away; the module path is the parent's, so
        # that both find the same function.
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        command = [sys.executable, "-P", "-m", "depo.rewards.pool_worker", *arguments]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        self._received = b""
        self._ready = False
        self.alive = True
        self.call: int | None = None
        self.deadline = time.monotonic() + START_LIMIT_SECONDS

    @property
    def idle(self) -> bool:
        return self.alive and self._ready and self.call is None

    @property
    def output(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    def send(self, index: int, call: Sequence[Any], timeout_seconds: float) -> bool:
        """Hand over a call; False if the process turns out to be dead."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(list(call)).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self.kill()
            return False
        self.call, self.deadline = index, time.monotonic() + timeout_seconds
        return True

    def receive(self, readable: bool) -> Outcome | None:
        """Take in what has arrived; return the outcome of the current call if it is decided."""
        chunk = os.read(self.output.fileno(), READ_BYTES) if readable else None
        if chunk:
            self._received += chunk
            line, newline, rest = self._received.partition(b"\n")
            if newline:
                self._received = rest
                return self._reply(line)
        if chunk == b"" or time.monotonic() >= self.deadline:
            return self._end("crash" if chunk == b"" else "timeout")
        return None

    def _reply(self, line: bytes) -> Outcome | None:
        if not self._ready:
            self._ready = True
            return None
        self.call = None
        return Outcome(**json.loads(line))

    def _end(self, failure: Literal["crash", "timeout"]) -> Outcome:
        self.kill()
        if not self._ready:
            raise RuntimeError(
                f"verifier process did not start ({failure}, exit status "
                f"{self._process.returncode}); its own error message is on stderr"
            )
        self.call = None
        return Outcome(failure=failure)

    def kill(self) -> None:
        self.alive = False
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        for pipe in (self._process.stdin, self.output):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
