"""What every answer carries, what web pages may do, what is encrypted, and what is written down."""

from __future__ import annotations

import datetime as dt
import io
import json
import logging
import ssl
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from slipstream.errors import SlipstreamError
from slipstream.gateway.audit import AuditLog
from slipstream.gateway.exchange import Exchange
from slipstream.gateway.keys import Grant, KeyFile
from slipstream.gateway.listening import tls_context
from slipstream.gateway.observability.logs import configure_logs
from slipstream.gateway.redaction import SecretFilter, redacted
from slipstream.gateway.security import Security
from slipstream.gateway.services import Models, Services
from slipstream.spec import AuditSpec, GatewaySpec, SecuritySpec, TlsSpec
from tests.fakes.gateway import a_model, gateway
from tests.fakes.triton import FakeTriton, Script
from tests.unit.raw_http import ask, exchange

PAGE = "https://page.example"
CHAT = {"model": "small", "messages": [{"role": "user", "content": "a secret prompt"}], "max_tokens": 4}


@pytest.fixture(scope="module")
def triton() -> Iterator[FakeTriton]:
    with FakeTriton({"tensorrt_llm": Script(pieces=[[5], [6]])}) as server:
        yield server


@pytest.fixture(scope="module")
def open_base(triton: FakeTriton) -> Iterator[str]:
    """Without keys."""
    with gateway(services(triton, Path(), cors_origins=(PAGE,))) as url:
        yield url


def services(triton: FakeTriton, root: Path, **security: object) -> Callable[[], Services]:
    spec = GatewaySpec(security=SecuritySpec.model_validate(security))
    return lambda: Services(
        spec=spec, models=Models([a_model(triton.address)]), security=Security.open(spec.security, root=root)
    )


def test_every_answer_has_a_request_id_and_takes_a_sane_one(open_base: str) -> None:
    for path, status in (("/health/live", 200), ("/nothing", 404), ("/v1/chat/completions", 405)):
        answer = ask(f"{open_base}{path}")
        assert (answer.status, answer.headers["x-request-id"][:4]) == (status, "req_")
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert ask(f"{open_base}/v1/models", headers={"x-request-id": "my-id.1"}).headers["x-request-id"] == "my-id.1"
    for strange in ("a b", "a" * 129, "<script>", "é"):
        assert ask(f"{open_base}/v1/models", headers={"x-request-id": strange}).headers["x-request-id"] != strange


def test_a_streamed_answer_has_the_id_too(open_base: str) -> None:
    answer = ask(f"{open_base}/v1/chat/completions", {**CHAT, "stream": True}, {"x-request-id": "mine"})
    assert answer.headers["x-request-id"] == "mine"
    assert answer.body.endswith(b"data: [DONE]\n\n")


def test_what_breaks_inside_is_a_500_whose_words_no_log_has(
    triton: FakeTriton, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Models):
        def __getitem__(self, name: str) -> object:  # type: ignore[override]
            raise RuntimeError(f"cannot serve {name}")

    make = services(triton, Path())
    with gateway(lambda: Services(spec=make().spec, models=Broken([a_model(triton.address)]))) as url:
        answer = ask(f"{url}/v1/models/prompt-text", headers={"x-request-id": "broken-1"})
    assert (answer.status, answer.error["type"], answer.error["code"]) == (500, "server_error", "internal_error")
    assert answer.headers["x-request-id"] == "broken-1"
    assert "broken-1: RuntimeError" in caplog.text
    assert "prompt-text" not in caplog.text


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8080", 200),
        ("localhost", 200),
        ("LOCALHOST:1", 200),
        ("[::1]:8080", 200),
        ("rebound.example", 403),
        ("rebound.example:8080", 403),
        ("127.0.0.1.rebound.example", 403),
        ("localhost.rebound.example", 403),
        ("0.0.0.0", 403),
        ("[::1", 403),
        ("", 403),
    ],
)
def test_without_keys_a_name_that_was_rebound_to_loopback_is_refused(open_base: str, host: str, status: int) -> None:
    asked = f"GET /v1/models HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode()
    assert exchange(open_base, asked).status == status


def test_no_host_or_two_are_refused(open_base: str) -> None:
    for hosts in (b"", b"host: localhost\r\nhost: rebound.example\r\n"):
        assert exchange(open_base, b"GET /v1/models HTTP/1.1\r\n" + hosts + b"\r\n").status == 403


def test_without_keys_no_other_page_may_ask(open_base: str) -> None:
    for origin in ("https://evil.example", "null", "http://localhost:1", open_base + "0"):
        refused = ask(f"{open_base}/v1/chat/completions", CHAT, {"origin": origin})
        assert (refused.status, refused.error["code"]) == (403, "origin_not_allowed")
    assert ask(f"{open_base}/v1/chat/completions", CHAT, {"origin": open_base}).status == 200  # the playground
    assert ask(f"{open_base}/v1/chat/completions", CHAT, {"origin": PAGE}).status == 200


def preflight(base: str, origin: str) -> dict[str, str]:
    asked = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization",
    }
    return ask(f"{base}/v1/chat/completions", headers=asked, method="OPTIONS").headers


def test_cors_is_off_unless_an_origin_is_allowed(triton: FakeTriton, tmp_path: Path, open_base: str) -> None:
    key = KeyFile(tmp_path / "keys.json").add("one", Grant()).text
    allowed = preflight(open_base, PAGE)
    assert allowed["access-control-allow-origin"] == PAGE
    assert "authorization" in allowed["access-control-allow-headers"]
    with gateway(services(triton, tmp_path, keys_file="keys.json")) as url:
        assert "access-control-allow-origin" not in preflight(url, PAGE)
    with gateway(services(triton, tmp_path, keys_file="keys.json", cors_origins=(PAGE,))) as url:
        assert "access-control-allow-origin" not in preflight(url, "https://evil.example")
        refused = ask(f"{url}/v1/models", headers={"origin": PAGE})
        assert (refused.status, refused.headers["access-control-allow-origin"]) == (401, PAGE)
        taken = ask(f"{url}/v1/models", headers={"origin": PAGE, "authorization": f"Bearer {key}"})
        assert taken.status == 200
        assert "access-control-allow-credentials" not in taken.headers
    for wrong in ("*", "page.example", "https://page.example/path"):
        with pytest.raises(ValidationError):
            SecuritySpec(cors_origins=(wrong,))


def self_signed(directory: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (directory / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (directory / "key.pem").write_bytes(key.private_bytes(*form))


def test_https_with_tls_1_2_or_later(triton: FakeTriton, tmp_path: Path) -> None:
    self_signed(tmp_path)
    tls = {"cert_file": str(tmp_path / "cert.pem"), "key_file": str(tmp_path / "key.pem")}
    context = tls_context(TlsSpec(**tls), Path())
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    trusting = ssl.create_default_context(cafile=tls["cert_file"])
    with gateway(services(triton, tmp_path, tls=tls)) as url:
        where = url.replace("http://127.0.0.1", "https://localhost")
        with urllib.request.urlopen(f"{where}/v1/models", timeout=10, context=trusting) as answer:
            assert answer.status == 200
            assert "max-age" in answer.headers["strict-transport-security"]
        assert exchange(url, b"GET / HTTP/1.1\r\n\r\n").status == 0, "plain HTTP is not answered"


def test_a_certificate_that_cannot_be_used_is_one_error(tmp_path: Path) -> None:
    self_signed(tmp_path)
    (tmp_path / "other.pem").write_text("not a key")
    for key in ("none.pem", "other.pem", "cert.pem"):
        with pytest.raises(SlipstreamError, match=r"gateway\.security\.tls"):
            tls_context(TlsSpec(cert_file="cert.pem", key_file=key), tmp_path)


def test_the_audit_log_says_who_what_and_how_much_and_no_text(triton: FakeTriton, tmp_path: Path) -> None:
    made = KeyFile(tmp_path / "keys.json").add("alice", Grant())
    audit = {"file": "audit.jsonl"}
    with gateway(services(triton, tmp_path, keys_file="keys.json", audit=audit)) as url:
        ask(
            f"{url}/v1/chat/completions?key=hidden", CHAT, {"authorization": f"Bearer {made.text}", "x-request-id": "1"}
        )
        ask(f"{url}/v1/chat/completions", CHAT, {"authorization": "Bearer sk-wrong-wrong", "x-request-id": "2"})
        ask(f"{url}/{made.text}", headers={"x-request-id": "3"})
        ask(f"{url}/health/live")
    text = (tmp_path / "audit.jsonl").read_text()
    # A line is written when its request has ended, which is after its client has the answer.
    first, second, third = sorted(map(json.loads, text.splitlines()), key=lambda line: line["request_id"])
    assert (first["caller"], first["name"], first["model"], first["status"]) == (made.key.id, "alice", "small", 200)
    assert (first["method"], first["path"], first["is_complete"]) == ("POST", "/v1/chat/completions", True)
    assert first["input_tokens"] > 0
    assert first["output_tokens"] == 2
    assert (second["caller"], second["status"], second["model"], second["output_tokens"]) == ("nobody", 401, None, 0)
    assert third["status"] == 401
    for hidden in ("hidden", "secret prompt", "wrong", made.text):
        assert hidden not in text
    assert (tmp_path / "audit.jsonl").stat().st_mode & 0o777 == 0o600


def test_every_response_on_a_socket_has_a_line_of_its_own(triton: FakeTriton, tmp_path: Path) -> None:
    made = KeyFile(tmp_path / "keys.json").add("alice", Grant(models=("small",)))
    with gateway(services(triton, tmp_path, keys_file="keys.json", audit={"file": "audit.jsonl"})) as url:
        where = url.replace("http", "ws") + "/v1/responses"
        with pytest.raises(InvalidStatus, match="401"):
            connect(where)
        with connect(where, additional_headers={"authorization": f"Bearer {made.text}"}) as socket:
            socket.send(json.dumps({"type": "response.create", "model": "small", "input": "a secret prompt"}))
            while json.loads(socket.recv())["type"] != "response.completed":
                pass
            socket.send(json.dumps({"type": "response.create", "model": "large", "input": "a secret prompt"}))
            assert json.loads(socket.recv())["status"] == 403
    text = (tmp_path / "audit.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert {(line["name"], line["model"], line["output_tokens"], line["status"]) for line in lines} == {
        ("nobody", None, 0, 401),
        ("alice", "small", 2, 200),
        ("alice", None, 0, 403),
        ("alice", None, 0, 101),  # the connection
    }
    assert "secret prompt" not in text


def test_the_audit_log_only_grows_and_is_set_aside_when_it_is_large(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_text("from before\n")
    path.chmod(0o644)
    log = AuditLog(path, max_bytes=1000, kept_files=2)
    for number in range(30):
        log.write(Exchange(request_id=f"r{number}"), {"path": "/x", "method": "GET"})
    log.close()
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["audit.jsonl", "audit.jsonl.1", "audit.jsonl.2"]
    assert [file.stat().st_mode & 0o777 for file in files] == [0o600] * 3
    assert all(file.stat().st_size <= 1000 for file in files)
    ids = [json.loads(line)["request_id"] for file in reversed(files) for line in file.read_text().splitlines()]
    assert ids == [f"r{number}" for number in range(30 - len(ids), 30)], "the latest ones, none lost between"


def test_two_writers_of_one_audit_log_set_it_aside_once(tmp_path: Path) -> None:
    """As after a reload, while streams of the configuration before are running."""
    first, second = (AuditLog(tmp_path / "a", max_bytes=1000, kept_files=5) for _ in range(2))
    for number in range(6):
        for log in (first, second):
            log.write(Exchange(request_id=f"r{number}"), {"path": "/x", "method": "GET"})
    first.close()
    second.close()
    files = sorted(tmp_path.iterdir())
    assert len(files) <= 3
    assert sum(len(file.read_text().splitlines()) for file in files) == 12


def test_an_audit_log_that_cannot_be_written_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for wrong in ("none/audit", "link"):
        with pytest.raises(SlipstreamError, match="audit log cannot be written"):
            Security.open(SecuritySpec(audit=AuditSpec(file=wrong)), root=tmp_path)


SECRET = "c2VjcmV0LXZhbHVl"


@pytest.mark.parametrize(
    "text",
    [
        f"key sk-1a2b3c4d-{SECRET}",
        f"key sk-proj-{SECRET}",
        f"authorization: Bearer {SECRET}",
        f"Authorization: Basic {SECRET}",
        f"{{'authorization': 'Bearer {SECRET}'}}",
        f"[(b'authorization', b'Bearer {SECRET}'), (b'x-api-key', b'{SECRET}')]",
        f"X-API-Key={SECRET}",
        f'"x-api-key": "{SECRET}"',
        f"token eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.{SECRET}",
        f"cookie: {SECRET}",
    ],
)
def test_no_secret_passes_the_filter_of_logs(text: str) -> None:
    assert SECRET not in redacted(text)
    assert "***" in redacted(text)
    record = logging.LogRecord("a", logging.INFO, __file__, 1, "%s", (text,), None)
    SecretFilter().filter(record)
    assert SECRET not in logging.Formatter().format(record)


def test_logs_as_json_are_filtered_too() -> None:
    before, level = logging.getLogger().handlers[:], logging.getLogger().level
    stream = io.StringIO()
    try:
        configure_logs("info", stream)
        try:
            raise ValueError(f"x-api-key: {SECRET}")
        except ValueError:
            logging.getLogger("any").exception("Bearer %s", SECRET)
    finally:
        logging.getLogger().handlers[:] = before
        logging.getLogger().setLevel(level)
    line = json.loads(stream.getvalue())
    assert line["event"] == "Bearer ***"
    assert "ValueError: x-api-key: ***" in line["exception"]


def test_a_traceback_is_filtered_and_other_text_stays() -> None:
    try:
        raise ValueError(f"Bearer {SECRET}")
    except ValueError as error:
        record = logging.LogRecord("a", logging.INFO, __file__, 1, "it broke", (), (type(error), error, None))
    SecretFilter().filter(record)
    shown = logging.Formatter().format(record)
    assert "it broke" in shown
    assert "ValueError: Bearer ***" in shown
    assert redacted("key 1a2b3c4d of sk-1a2b3c4d-" + SECRET) == "key 1a2b3c4d of sk-1a2b3c4d-***"
    assert redacted("the ask-me-anything task, an api key: none") == "the ask-me-anything task, an api key: none"
