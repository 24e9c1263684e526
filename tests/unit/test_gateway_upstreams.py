"""Which models a gateway is configured with, from which Tritons, and what it refuses to be told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slipstream.errors import SlipstreamError, SpecError
from slipstream.gateway_config import GatewayConfig, UpstreamConfig, read_config, write_config
from slipstream.spec import BackendSpec, DeploymentSpec, GatewaySpec
from slipstream.spec_file import load_deployment
from slipstream.upstreams import gateway_config, why_no_gateway

NAME = "smollm2-135m-cpu"
LLAMA = "llama-3.1-8b-fp8-h100"
LLM_API = "llama-3.1-8b-nvfp4-llmapi-b200"
DRAFT = "smollm2-135m-cpu-draft"
OWN = BackendSpec(grpc="127.0.0.1:8001", metrics="127.0.0.1:8002")


def a_config(
    root: Path, upstreams: object = None, *, own: BackendSpec | None = OWN, sets: tuple[str, ...] = ()
) -> GatewayConfig:
    more = () if upstreams is None else (f"gateway.upstreams={json.dumps(upstreams)}",)
    spec = load_deployment(NAME, (*more, *sets), root=root)
    return gateway_config(spec, root=root, model_dir=Path("/models/own"), port=8080, own=own)


def addresses(model: UpstreamConfig) -> list[str]:
    return [backend.grpc for backend in model.backends]


def refusal(root: Path, upstreams: object) -> str:
    with pytest.raises(SpecError) as caught:
        a_config(root, upstreams)
    return str(caught.value)


def test_a_deployment_serves_its_own_triton(root: Path) -> None:
    config = a_config(root)
    [model] = config.upstreams
    assert (model.name, model.backends, model.model_dir) == (NAME, (OWN,), Path("/models/own"))
    assert (model.max_input_tokens, model.context_tokens) == (2047, 2048)
    assert config.url == "http://127.0.0.1:8080"


def test_under_its_own_name_it_has_replicas(root: Path) -> None:
    [model] = a_config(root, {NAME: {"backends": [{"grpc": "10.0.0.2:8001"}]}}).upstreams
    assert addresses(model) == ["127.0.0.1:8001", "10.0.0.2:8001"]


def test_another_deployment_gives_its_model_and_limits(root: Path) -> None:
    upstreams = {"large": {"deployment": LLAMA, "backends": [{"grpc": "a:1"}, {"grpc": "b:1"}]}}
    own, large = a_config(root, upstreams).upstreams
    assert own.name == NAME
    assert addresses(large) == ["a:1", "b:1"]
    assert large.model_dir == root / "build" / LLAMA / "model"
    assert large.context_tokens == load_deployment(LLAMA, root=root).engine.max_seq_len


def test_the_deployment_is_that_of_the_models_name(root: Path) -> None:
    _, large = a_config(root, {LLAMA: {"backends": [{"grpc": "a:1"}]}}).upstreams
    assert large.model_dir == root / "build" / LLAMA / "model"


def test_a_model_directory_stands_in_the_place_of_a_deployment(root: Path) -> None:
    limits = {"max_input_tokens": 100, "context_tokens": 200}
    given = {"org/model": {"model_dir": "/m", "backends": [{"grpc": "[::1]:1"}], **limits}}
    _, model = a_config(root, given).upstreams
    assert (model.name, model.model_dir, model.context_tokens) == ("org/model", Path("/m"), 200)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"backends": []}, "backends"),
        ({"backends": [{"grpc": "nowhere"}]}, "grpc"),
        ({"backends": [{"grpc": "a:1"}, {"grpc": "a:1"}]}, "each grpc address once"),
        ({"deployment": "missing"}, "no such deployment file"),
        ({"deployment": LLM_API}, "the LLM API has others"),
        ({"deployment": DRAFT}, "no reply is streamed"),
        ({"model_dir": "/m"}, "needs max_input_tokens and context_tokens"),
        ({"context_tokens": 10}, "are for model_dir"),
        ({"model_dir": "/m", "max_input_tokens": 10, "context_tokens": 10}, "must be below context_tokens"),
        ({"modeldir": "/m"}, "unknown field"),
    ],
    ids=str,
)
def test_what_cannot_be_served_is_refused(root: Path, change: dict[str, object], text: str) -> None:
    origin = {} if "model_dir" in change else {"deployment": LLAMA}
    assert text in refusal(root, {"large": {"backends": [{"grpc": "a:1"}], **origin, **change}})


def test_alone_a_gateway_expects_triton_where_the_deployment_says(root: Path) -> None:
    [model] = a_config(root, own=None).upstreams
    assert model.backends == (OWN,)
    with pytest.raises(SpecError, match="where its Triton is cannot be known"):
        a_config(root, own=None, sets=("runtime.ports=auto",))


def test_alone_it_serves_the_upstreams_and_nothing_else(root: Path) -> None:
    [model] = a_config(root, {LLAMA: {"backends": [{"grpc": "a:1"}]}}, own=None).upstreams
    assert model.name == LLAMA


@pytest.mark.parametrize(
    ("deployment", "sets", "text"),
    [
        (NAME, (), None),
        (LLAMA, (), None),
        (NAME, ("gateway.enabled=false",), "gateway.enabled is false"),
        (LLM_API, (), "the LLM API has others"),
        (DRAFT, (), "no reply is streamed"),
    ],
)
def test_a_gateway_starts_where_tokens_are_streamed(
    root: Path, deployment: str, sets: tuple[str, ...], text: str | None
) -> None:
    why = why_no_gateway(load_deployment(deployment, sets, root=root))
    assert why is None if text is None else text in str(why)


def test_a_configuration_is_read_back_and_for_its_user_alone(root: Path, tmp_path: Path) -> None:
    config = a_config(root, {LLAMA: {"backends": [{"grpc": "a:1", "metrics": "a:2"}]}})
    write_config(tmp_path / "gateway.json", config)
    assert read_config(tmp_path / "gateway.json") == config
    assert [path.name for path in tmp_path.iterdir()] == ["gateway.json"]
    assert (tmp_path / "gateway.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("damage", "where"), [('"port": 8080', "port"), ('"settings"', "settings")])
def test_a_damaged_configuration_is_refused_by_field(root: Path, tmp_path: Path, damage: str, where: str) -> None:
    path = tmp_path / "gateway.json"
    write_config(path, a_config(root))
    path.write_text(path.read_text().replace(damage, damage.replace("port", "prt").replace("settings", "setting")))
    with pytest.raises(SlipstreamError, match=where):
        read_config(path)


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({}, "http://127.0.0.1:8080"),
        ({"host": "::1"}, "http://[::1]:8080"),
        ({"host": "0.0.0.0", "security": {"keys_file": "k"}}, "http://127.0.0.1:8080"),
        ({"security": {"tls": {"cert_file": "c", "key_file": "k"}}}, "https://127.0.0.1:8080"),
    ],
)
def test_the_url_is_where_this_machine_reaches_it(root: Path, settings: dict[str, object], url: str) -> None:
    config = a_config(root).model_copy(update={"settings": GatewaySpec.model_validate(settings)})
    assert config.url == url


def test_every_committed_deployment_has_a_gateway_or_a_reason(root: Path) -> None:
    for path in sorted((root / "deployments").glob("*.yaml")):
        spec: DeploymentSpec = load_deployment(path.stem, root=root)
        if why_no_gateway(spec) is None:
            config = gateway_config(spec, root=root, model_dir=Path("/m"), port=8080, own=OWN)
            assert isinstance(config, GatewayConfig)
