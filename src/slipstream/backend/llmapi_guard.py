"""No stub outlives its server, even one whose threads cannot run.

The stub's own thread (`orphan`) needs Python's lock, which a hanging call may hold for ever: while weights are loaded,
or in the memory shared with a server that was killed. Such a stub would keep its GPUs. So a shell looks from outside;
it is no second Python because that would take the memory of one.
"""

from __future__ import annotations

import os
import subprocess

# $1 the stub, $2 the server. The fourth field of stat is the parent, which changes when the server dies; the stub's own
# thread comes first. A number that another process has got meanwhile does not have the stub's name.
_SCRIPT = """
while [ "$(cut -d' ' -f4 "/proc/$1/stat" 2>/dev/null)" = "$2" ]; do sleep 1; done
sleep 4
grep -q '^triton_python' "/proc/$1/comm" 2>/dev/null && kill -9 "$1"
"""


class Guard:
    """Watches this process until `close`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _SCRIPT, "guard", str(os.getpid()), str(os.getppid())],
            stdin=subprocess.DEVNULL,
        )

    def close(self) -> None:
        """Stop watching: this process is about to end in good order."""
        self._process.kill()
        self._process.wait()
