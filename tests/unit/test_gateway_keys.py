"""Who is let in: keys, their file, their models, and how a refusal looks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import ValidationError

from slipstream.cli import main
from slipstream.errors import SlipstreamError
from slipstream.gateway.keys import NO_KEYS, Grant, KeyFile, KeyLimits
from slipstream.gateway.security import Security, refuse_open_host
from slipstream.gateway.services import Models, Services
from slipstream.gateway.watched_file import WatchedFile
from slipstream.spec import GatewaySpec, SecuritySpec
from tests.fakes.gateway import a_model, gateway
from tests.fakes.triton import FakeTriton, Script
from tests.unit.raw_http import ask


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded:
    url: str
    for_all: str  # the text of a key
    for_small: str


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """Two models, a key for both and a key for one."""
    root = tmp_path_factory.mktemp("keys")
    file = KeyFile(root / "keys.json")
    for_all, for_small = file.add("all", Grant()).text, file.add("one", Grant(models=("small",))).text
    spec = GatewaySpec(security=SecuritySpec(keys_file="keys.json"))

    def services() -> Services:
        models = Models([a_model(triton.address), a_model(triton.address, name="large")])
        return Services(spec=spec, models=models, security=Security.open(spec.security, root=root))

    with FakeTriton({"tensorrt_llm": Script(pieces=[[5]])}) as triton, gateway(services) as url:
        yield Guarded(url=url, for_all=for_all, for_small=for_small)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def chat(model: str = "small") -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}


def test_without_a_key_nothing_is_answered_but_what_is_public(guarded: Guarded) -> None:
    for path in ("/v1/models", "/openapi.json", "/nothing"):
        refused = ask(f"{guarded.url}{path}")
        assert (refused.status, refused.error["type"]) == (401, "invalid_request_error")
        assert refused.headers["www-authenticate"] == "Bearer"
    assert ask(f"{guarded.url}/health/live").status == 200


@pytest.mark.parametrize(
    "change", [lambda key: key[:-1] + "!", lambda key: key.upper(), lambda key: "sk-x", lambda _: "é"]
)
def test_a_wrong_key_is_refused_as_openai_does_and_not_repeated(guarded: Guarded, change: object) -> None:
    assert callable(change)
    wrong = change(guarded.for_all)
    refused = ask(f"{guarded.url}/v1/models", headers=bearer(wrong))
    assert (refused.status, refused.error["code"]) == (401, "invalid_api_key")
    assert wrong not in refused.body.decode()


@pytest.mark.parametrize("value", ["Basic abc", "Bearer", "Bearer ", "token"])
def test_another_scheme_is_refused(guarded: Guarded, value: str) -> None:
    assert ask(f"{guarded.url}/v1/models", headers={"authorization": value}).status == 401


def test_the_header_of_anthropics_clients_is_taken(guarded: Guarded) -> None:
    assert ask(f"{guarded.url}/v1/models", headers={"x-api-key": guarded.for_all}).status == 200
    assert ask(f"{guarded.url}/v1/models", headers={"x-api-key": "wrong"}).status == 401


def test_a_key_sees_its_models_only(guarded: Guarded) -> None:
    def listed(key: str) -> list[str]:
        return [model["id"] for model in json.loads(ask(f"{guarded.url}/v1/models", headers=bearer(key)).body)["data"]]

    assert listed(guarded.for_all) == ["small", "large"]
    assert listed(guarded.for_small) == ["small"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", chat("large")),
        ("/v1/completions", {"model": "large", "prompt": "x"}),
        ("/tokenize", {"model": "large", "prompt": "x"}),
        ("/detokenize", {"model": "large", "tokens": [1]}),
        ("/v1/models/large", None),
        ("/v1/models/there-is-none", None),  # whether it exists is not said either
    ],
)
def test_a_model_outside_the_scope_is_403_on_every_endpoint(guarded: Guarded, path: str, body: object) -> None:
    refused = ask(f"{guarded.url}{path}", body, bearer(guarded.for_small))
    assert (refused.status, refused.error["code"]) == (403, "model_not_found")
    allowed = ask(f"{guarded.url}/v1/chat/completions", chat("small"), bearer(guarded.for_small))
    assert allowed.status == 200


def test_a_key_becomes_a_caller_with_its_limits(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")
    grant = Grant(weight=2, priority="high", limits=KeyLimits(requests_per_minute=7))
    made = file.add("alice", grant)
    caller = file.keyring().find(made.text)
    assert caller is not None
    assert (caller.id, caller.name, caller.weight, caller.priority) == (made.key.id, "alice", 2, "high")
    assert caller.limits.requests_per_minute == 7


def test_the_file_opens_nothing_and_belongs_to_its_owner(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "deep" / "keys.json")
    text = file.add("alice", Grant()).text
    assert text.split("-", 2)[2] not in file.path.read_text()
    assert file.path.stat().st_mode & 0o777 == 0o600
    file.path.chmod(0o644)
    with pytest.raises(SlipstreamError, match="others can read it"):
        file.keyring()


def test_a_changed_file_is_read_again_and_a_removed_one_lets_nobody_in(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")
    first = file.add("first", Grant())
    now = 0.0
    watched = WatchedFile(file.path, lambda path: KeyFile(path).keyring(), empty=NO_KEYS, now=lambda: now)
    second = file.add("second", Grant())
    assert watched.get().find(second.text) is None, "looked at once a second"
    now = 1.0
    assert watched.get().find(second.text) is not None
    file.revoke(first.key.id)
    now = 2.0
    assert watched.get().find(first.text) is None
    kept = file.path.read_bytes()
    file.path.write_bytes(b"{")
    now = 3.0
    assert watched.get().find(second.text) is not None, "a damaged file changes nothing"
    file.path.unlink()
    now = 4.0
    assert watched.get().find(second.text) is None
    file.path.touch(mode=0o600)
    file.path.write_bytes(kept)
    now = 5.0
    assert watched.get().find(second.text) is not None


def test_without_keys_another_address_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"must be a loopback address; set security\.keys_file"):
        GatewaySpec(host="0.0.0.0")
    assert GatewaySpec(host="0.0.0.0", security=SecuritySpec(keys_file="k")).host == "0.0.0.0"
    for host in ("localhost", "127.0.0.1", "127.9.9.9", "::1"):
        refuse_open_host(host, Security())
    for host in ("0.0.0.0", "::", "192.168.0.1", "localhost.example.com", ""):
        with pytest.raises(SlipstreamError, match="no key is asked for"):
            refuse_open_host(host, Security())
    refuse_open_host("0.0.0.0", Security(finders=(NO_KEYS.find,)))


def test_a_missing_file_of_keys_is_one_error_with_a_mend(tmp_path: Path) -> None:
    with pytest.raises(SlipstreamError) as refused:
        Security.open(SecuritySpec(keys_file="none.json"), root=tmp_path)
    assert "slipstream keys add" in refused.value.mend


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = 0
    try:
        main(list(arguments))
    except SystemExit as ended:
        code = int(ended.code or 0)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_the_command_line_makes_lists_and_revokes_keys(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = ("--file", str(tmp_path / "keys.json"))
    code, secret, err = run(
        capsys, "keys", "add", "alice", "--models", "small,large", "--priority", "high", "--tokens-per-day", "9", *file
    )
    assert code == 0
    assert secret.strip() not in err
    key_id = secret.split("-")[1]
    code, listed, _ = run(capsys, "keys", "list", "--json", *file)
    (key,) = json.loads(listed)["keys"]
    assert (key["id"], key["models"], key["priority"]) == (key_id, ["small", "large"], "high")
    assert key["limits"] == {"tokens_per_day": 9}
    assert "digest" not in key
    assert secret.strip() not in run(capsys, "keys", "list", *file)[1]
    assert run(capsys, "keys", "revoke", key_id, *file)[0] == 0
    assert run(capsys, "keys", "revoke", key_id, *file)[0] == 1
    assert json.loads(run(capsys, "keys", "list", "--json", *file)[1]) == {"keys": []}


@pytest.mark.parametrize("wrong", [("--weight", "0"), ("--priority", "urgent"), ("--models", ",")])
def test_a_wrong_option_is_one_message(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, wrong: tuple[str, str]
) -> None:
    code, out, err = run(capsys, "keys", "add", "alice", *wrong, "--file", str(tmp_path / "keys.json"))
    assert (code, out, list(tmp_path.iterdir())) == (2, "", [])
    assert wrong[0] in err
    assert "Traceback" not in err
