"""Main program of a pool worker: read one JSON line per call, write one per result.

`WorkerPool` starts it as a fresh interpreter.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import sys
from operator import attrgetter


def main(function: str, memory_bytes: int, timeout_seconds: float) -> None:
    """Answer calls from standard input until it ends.

    Args:
        function: `module:function`.
        memory_bytes: Limit of the address space, set after the imports.
        timeout_seconds: The parent's limit of a call. If the parent has ended, the kernel ends the
            call after twice this time.
    """
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # keep the function's own output away from the replies
    module, _, name = function.partition(":")
    run = attrgetter(name)(importlib.import_module(module))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_REAL, 2 * timeout_seconds)
        try:
            reply = json.dumps({"value": run(*json.loads(line))})
        except Exception as error:  # the parent gets every error
            reply = json.dumps(
                {"failure": "error", "detail": f"{type(error).__name__}: {error}"[:1000]}
            )
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(reply, file=replies, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
