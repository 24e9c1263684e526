"""The configuration of a deployment's gateway: which models it serves, from which Tritons."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from slipstream.errors import SpecError
from slipstream.gateway.queueing.capacity import capacity_of
from slipstream.gateway_config import GatewayConfig, UpstreamConfig
from slipstream.project import Workspace
from slipstream.spec import BackendSpec, DeploymentSpec, PortsSpec, UpstreamSpec
from slipstream.spec_file import load_deployment

_LOOPBACK = "127.0.0.1"
_OF_ANSWERS = {"model", "quantization", "engine", "runtime"}  # groups of settings


def why_no_gateway(spec: DeploymentSpec) -> str | None:
    """Why no gateway is started beside this deployment's Triton; None where one is."""
    return _why_mute(spec) if spec.gateway.enabled else "gateway.enabled is false"


def gateway_of(spec: DeploymentSpec, *, root: Path, model_dir: Path) -> Callable[[PortsSpec], GatewayConfig] | None:
    """What configures the gateway beside the deployment's Triton once ports are known; None where there is none."""
    if why_no_gateway(spec) is not None:
        return None
    return lambda ports: gateway_config(spec, root=root, model_dir=model_dir, port=ports.gateway, own=_local(ports))


def gateway_config(
    spec: DeploymentSpec, *, root: Path, model_dir: Path, port: int, own: BackendSpec | None
) -> GatewayConfig:
    """For the gateway of `spec`, whose Triton is `own`, or elsewhere: then the upstreams are all there is.

    Where neither is given, Triton is expected at the port that the deployment names, on this machine.
    """
    settings = spec.gateway
    models = {name: _upstream(name, given, spec, root, model_dir) for name, given in settings.upstreams.items()}
    if own is not None:
        replicas = models[spec.name].backends if spec.name in models else ()
        models = {**models, spec.name: _of_deployment(spec.name, spec, model_dir, (own, *replicas))}
    elif not models:
        models = {spec.name: _of_deployment(spec.name, spec, model_dir, (_expected(spec),))}
    ordered = sorted(models.values(), key=lambda model: (model.name != spec.name, model.name))
    return GatewayConfig(root=root, port=port, upstreams=tuple(ordered), settings=settings)


def _upstream(name: str, given: UpstreamSpec, spec: DeploymentSpec, root: Path, model_dir: Path) -> UpstreamConfig:
    if given.model_dir is not None:
        assert given.max_input_tokens is not None, "the spec asks for both limits"
        assert given.context_tokens is not None, "the spec asks for both limits"
        return UpstreamConfig(
            name=name,
            backends=given.backends,
            model_dir=Path(given.model_dir),
            max_input_tokens=given.max_input_tokens,
            context_tokens=given.context_tokens,
        )
    origin = given.deployment or name
    if origin == spec.name:
        return _of_deployment(name, spec, model_dir, given.backends)
    try:
        other = load_deployment(origin, root=root)
    except SpecError as error:
        raise SpecError(
            f"{spec.name}: gateway.upstreams.{name}: {error.message}",
            mend="name a deployment, or give model_dir, max_input_tokens and context_tokens",
        ) from error
    other_model = Workspace(directory=root / "build" / other.name).model
    return _of_deployment(name, other, other_model, given.backends)


def _of_deployment(name: str, spec: DeploymentSpec, model_dir: Path, backends: Sequence[BackendSpec]) -> UpstreamConfig:
    if (why := _why_mute(spec)) is not None:
        raise SpecError(f"{spec.name}: {why}", mend="serve another deployment through the gateway")
    capacity = capacity_of(spec, servers=len(backends))
    return UpstreamConfig(
        name=name,
        backends=tuple(backends),
        kv_tokens=capacity.kv_tokens,
        choices=capacity.choices,
        model_dir=model_dir,
        max_input_tokens=spec.engine.max_input_len,
        context_tokens=spec.engine.max_seq_len,
        digest=_digest(spec, model_dir.parent / "engine" / "manifest.json"),
        # In the performance mode the company that a request keeps may change near-ties, and with them a draw.
        is_deterministic=spec.engine.target == "openvino" and spec.runtime.execution == "accuracy",
    )


def _digest(spec: DeploymentSpec, engine_manifest: Path) -> str:
    """Over what decides a deployment's answers: its settings, and what its engine was made from, if that is here."""
    settings = spec.model_dump_json(include=_OF_ANSWERS, exclude={"runtime": {"ports"}})
    made_from = engine_manifest.read_bytes() if engine_manifest.is_file() else b""
    return hashlib.sha256(b"%b\n%b" % (settings.encode(), made_from)).hexdigest()


def _why_mute(spec: DeploymentSpec) -> str | None:
    if spec.engine.target == "llmapi":
        return "the gateway asks for tokens by the tensors of TensorRT-LLM's backend, the LLM API has others"
    if not spec.runtime.decoupled:
        return "runtime.decoupled is false, no reply is streamed"
    return None


def _expected(spec: DeploymentSpec) -> BackendSpec:
    ports = spec.runtime.ports
    if ports == "auto":
        raise SpecError(
            f"{spec.name}: runtime.ports is auto: where its Triton is cannot be known",
            mend="name the ports, or the Tritons in gateway.upstreams",
        )
    return _local(ports)


def _local(ports: PortsSpec) -> BackendSpec:
    return BackendSpec(grpc=f"{_LOOPBACK}:{ports.grpc}", metrics=f"{_LOOPBACK}:{ports.metrics}")
