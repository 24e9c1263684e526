"""Environments of the peers: made once, made again when their requirements change, a failure leads to its log."""

from __future__ import annotations

from pathlib import Path

import pytest

from slipstream.errors import SlipstreamError
from slipstream.perf.peer_environments import peer_environment
from slipstream.progress import silent


def test_an_environment_is_made_once(tmp_path: Path) -> None:
    (tmp_path / "requirements-none.txt").write_text("# nothing\n")
    python = peer_environment("none", tmp_path, tmp_path / "made", silent)
    python.with_name("kept").touch()
    assert peer_environment("none", tmp_path, tmp_path / "made", silent) == python
    assert python.with_name("kept").exists()
    (tmp_path / "requirements-none.txt").write_text("# nothing else\n")
    peer_environment("none", tmp_path, tmp_path / "made", silent)
    assert not python.with_name("kept").exists()


def test_an_installation_that_fails_names_its_log(tmp_path: Path) -> None:
    (tmp_path / "requirements-none.txt").write_text("./does-not-exist\n")
    with pytest.raises(SlipstreamError, match=r"none-install\.log"):
        peer_environment("none", tmp_path, tmp_path / "made", silent)
