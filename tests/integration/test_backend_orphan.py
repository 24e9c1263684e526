"""A process that was told to end with its parent does so even when its own main thread waits for ever."""

from __future__ import annotations

import subprocess
import sys

import psutil

_CHILD = """
import threading
from slipstream.backend.orphan import end_with_server
end_with_server()
print("ready", flush=True)
threading.Event().wait()
"""
_PARENT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {_CHILD!r}], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_a_process_ends_after_its_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", _PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        assert child.is_running()
        parent.kill()
    _, left = psutil.wait_procs([child], timeout=10)
    assert not left
