"""The gateway as a process: ready after a token, new settings under running streams, an end that cuts nobody off."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from slipstream.gateway.keys import Grant, KeyFile
from slipstream.gateway_config import outcome_file
from tests.fakes.triton import FakeTriton, Script
from tests.integration.gateway_process import MODEL, GatewayProcess, gateway_process
from tests.unit.small_tokenizers import byte_level

PIECES = [[token] for token in byte_level().encode("The quick brown fox jumps")]
TOKENS = len(PIECES)


def script(delay_s: float) -> dict[str, Script]:
    return {"tensorrt_llm": Script(pieces=PIECES, delay_s=delay_s)}


@pytest.fixture(scope="module")
def slow() -> Iterator[FakeTriton]:
    """A Triton whose answers take about a second and a half."""
    with FakeTriton(script(1.5 / TOKENS)) as triton:
        yield triton


@pytest.fixture(scope="module")
def shared(slow: FakeTriton, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with gateway_process(tmp_path_factory.mktemp("gateway"), slow.address) as running:
        yield running


def test_it_is_ready_when_a_token_has_come_out(shared: GatewayProcess) -> None:
    assert shared.status("/health/ready") == 200
    assert shared.status(f"/health/ready?model={MODEL}") == 200
    assert shared.status("/health/ready?model=other") == 503


def test_it_is_live_and_not_ready_where_no_token_comes(tmp_path: Path) -> None:
    with FakeTriton({"tensorrt_llm": Script(error="no")}) as triton, gateway_process(tmp_path, triton.address) as it:
        assert it.status("/health/ready") == 503
        assert it.status("/health/live") == 200


def test_its_health_needs_no_key(tmp_path: Path, slow: FakeTriton) -> None:
    KeyFile(tmp_path / "keys.json").add("ada", Grant())
    with gateway_process(tmp_path, slow.address, security={"keys_file": "keys.json"}) as it:
        assert it.status("/health/ready") == 200
        assert it.status(f"/health/ready?model={MODEL}") == 200
        assert it.complete() == 401


def test_new_settings_serve_new_requests_while_a_stream_of_the_old_ones_ends(
    shared: GatewayProcess, slow: FakeTriton
) -> None:
    long = "fox " * 400
    assert shared.complete(prompt=long) == 200
    with shared.stream() as answer:
        shared.configure(slow.address, {"max_body_bytes": 1024})
        assert shared.reload().message == ""
        assert shared.complete(prompt=long) == 413
        assert shared.complete() == 200
        assert answer.read().endswith(b"data: [DONE]\n\n")
    assert slow.cancelled == []


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"security": {"keys_file": "nowhere.json"}}, "nowhere.json: cannot be read"),
        ({"host": "127.0.0.2"}, "the gateway listens at"),
    ],
    ids=["keys", "address"],
)
def test_bad_new_settings_are_refused_and_the_old_ones_stay(
    shared: GatewayProcess, slow: FakeTriton, settings: dict[str, object], text: str
) -> None:
    shared.configure(slow.address, settings)
    refused = shared.reload()
    assert text in refused.message
    assert refused.mend
    assert shared.complete() == 200
    shared.configure(slow.address, {})
    assert shared.reload().message == ""


def test_a_damaged_file_is_refused_with_its_field(shared: GatewayProcess, slow: FakeTriton) -> None:
    shared.path.write_text(shared.path.read_text().replace('"max_body_bytes"', '"max_body_byte"'))
    assert "settings.max_body_byte: " in shared.reload().message
    assert shared.complete() == 200
    shared.configure(slow.address, {})
    assert shared.reload().message == ""


def test_another_triton_takes_the_new_requests_and_the_old_one_ends_its_own(
    shared: GatewayProcess, slow: FakeTriton
) -> None:
    with FakeTriton(script(0)) as other:
        with shared.stream() as answer:
            before = len(slow.received)
            shared.configure(other.address, {})
            assert shared.reload().message == ""
            asked = len(other.received)  # the token that a new backend is asked for
            assert [shared.complete() for _ in range(5)] == [200] * 5
            assert len(other.received) == asked + 5
            assert len(slow.received) == before
            assert answer.read().endswith(b"data: [DONE]\n\n")
        shared.configure(slow.address, {})
        assert shared.reload().message == ""


def test_a_triton_that_gives_no_token_does_not_take_over(shared: GatewayProcess, slow: FakeTriton) -> None:
    with FakeTriton({"tensorrt_llm": Script(error="no")}) as other:
        routing = {"probe_period_s": None, "join_timeout_s": 0.5}
        shared.configure(slow.address, {"routing": routing})
        assert shared.reload().message == ""
        shared.configure(other.address, {"routing": routing})
        assert "brought a token" in shared.reload().message
        assert shared.complete() == 200
    shared.configure(slow.address, {})
    assert shared.reload().message == ""


def test_told_to_end_it_refuses_new_requests_and_finishes_running_ones(tmp_path: Path, slow: FakeTriton) -> None:
    with gateway_process(tmp_path, slow.address) as it:
        assert outcome_file(it.path).exists()
        with it.stream() as answer:
            it.process.send_signal(signal.SIGTERM)
            it.wait_for("/health/ready", 503)
            assert it.status("/health/live") == 200
            assert it.complete() == 503
            assert answer.read().endswith(b"data: [DONE]\n\n")
        assert it.end() == 0
        assert it.status("/health/live") == 0
        assert not outcome_file(it.path).exists()


def test_a_load_balancer_has_time_to_notice(tmp_path: Path, slow: FakeTriton) -> None:
    with gateway_process(tmp_path, slow.address, drain_delay_s=1.0) as it:
        it.process.send_signal(signal.SIGTERM)
        it.wait_for("/health/ready", 503)
        assert it.complete() == 200
        assert it.end() == 0


def test_what_takes_too_long_is_cut_off(tmp_path: Path) -> None:
    with (
        FakeTriton({"tensorrt_llm": Script(pieces=PIECES[:1], hangs=True)}) as triton,
        gateway_process(tmp_path, triton.address, drain_timeout_s=0.2) as it,
        it.stream(),
    ):
        it.process.send_signal(signal.SIGTERM)
        assert it.end(within_s=20) == 0
        assert "cut off" in "".join(it.said)
        assert triton.wait_until_cancelled()


def test_told_twice_it_ends_at_once(tmp_path: Path) -> None:
    with (
        FakeTriton({"tensorrt_llm": Script(pieces=PIECES[:1], hangs=True)}) as triton,
        gateway_process(tmp_path, triton.address, drain_timeout_s=600) as it,
        it.stream(),
    ):
        it.process.send_signal(signal.SIGTERM)
        it.wait_for("/health/ready", 503)
        it.process.send_signal(signal.SIGTERM)
        assert it.end(within_s=20) == 0


def test_a_busy_port_is_one_message(tmp_path: Path, slow: FakeTriton) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        it = GatewayProcess(tmp_path, slow.address, {}, port=busy.getsockname()[1])
        assert it.end() == 1
    [line, mend] = it.said
    assert line.startswith(f"gateway: the gateway cannot listen on 127.0.0.1:{it.port}")
    assert mend.startswith("  mend: ")
    assert not outcome_file(it.path).exists()


def test_what_it_is_given_is_for_its_user_alone(shared: GatewayProcess) -> None:
    assert shared.path.stat().st_mode & 0o777 == 0o600
    assert outcome_file(shared.path).stat().st_mode & 0o777 == 0o600
