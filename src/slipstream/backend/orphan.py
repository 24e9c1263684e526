"""No stub outlives its server.

A server that is killed may die with a lock in the memory that it shares with its stubs; a stub that waits for such a
lock never learns that the server is gone. So a thread looks at the parent process: it changes when the server dies.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

_PERIOD_S = 0.5
_GRACE_S = 2.0  # for the stub's own orderly end, which usually comes


def end_with_server() -> None:
    """From now on this process ends soon after its parent, at the latest by force; to be called by every model."""
    threading.Thread(target=_watch, args=(os.getppid(),), name="orphan", daemon=True).start()


def end_stub_with_server() -> None:
    """The same from a child process of a stub: one that hangs in a call which holds Python's lock runs no thread.

    Without effect in a process that is no stub's child.
    """
    import psutil

    stub = psutil.Process(os.getppid())
    if "triton_python_backend_stub" in " ".join(stub.cmdline()):
        threading.Thread(target=_watch_stub, args=(stub, stub.ppid()), name="orphan", daemon=True).start()


def _watch_stub(stub: psutil.Process, server_process_id: int) -> None:
    import psutil

    with contextlib.suppress(psutil.Error):
        while stub.ppid() == server_process_id:
            time.sleep(_PERIOD_S)
        time.sleep(_GRACE_S)
        stub.kill()
    os.kill(os.getpid(), signal.SIGKILL)


def _watch(server_process_id: int) -> None:
    while os.getppid() == server_process_id:
        time.sleep(_PERIOD_S)
    time.sleep(_GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)
