"""What of this process's environment its servers may see."""

from __future__ import annotations

from collections.abc import Mapping

# Words in the names of variables that hold what no server needs to know.
_SECRET_WORDS = {"TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL", "CREDENTIALS", "KEY", "APIKEY"}


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment, libraries' paths and all, less variables whose name says that they are secret."""
    return {name: value for name, value in environment.items() if not _SECRET_WORDS & set(name.upper().split("_"))}
