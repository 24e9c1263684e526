"""Which models the gateway serves beside its deployment's own, and where their Tritons are."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from slipstream.spec.groups import AbsolutePath, Group

# What a client writes into `model`; also part of a URL, of metrics and of logs.
ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w./:@-]*$", max_length=256)]
HostPort = Annotated[str, Field(pattern=r"^([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$", max_length=300)]
_MOST_TOKENS = 100_000_000


class BackendSpec(Group):
    """One Triton that serves a model."""

    grpc: HostPort = Field(description="host:port of Triton's gRPC")
    metrics: HostPort | None = Field(None, description="host:port of its metrics, to show them with the gateway's own")


class UpstreamSpec(Group):
    """One model by the name that clients give: its Tritons, and whose tokenizer and limits apply."""

    backends: tuple[BackendSpec, ...] = Field(strict=False, min_length=1, max_length=256)
    deployment: str | None = Field(
        None,
        max_length=64,
        description="whose model, tokenizer and limits these Tritons serve; null: the deployment of the model's name",
    )
    model_dir: AbsolutePath | None = Field(
        None, description="a Hugging Face model directory in the place of a deployment; needs both limits"
    )
    max_input_tokens: int | None = Field(None, ge=1, le=_MOST_TOKENS, description="longest prompt")
    context_tokens: int | None = Field(None, ge=2, le=_MOST_TOKENS, description="prompt and output together")

    @model_validator(mode="after")
    def _one_origin(self) -> UpstreamSpec:
        limits = (self.max_input_tokens, self.context_tokens)
        if self.model_dir is not None and (self.deployment is not None or None in limits):
            raise ValueError(
                "model_dir stands in the place of deployment, and needs max_input_tokens and context_tokens"
            )
        if self.model_dir is None and limits != (None, None):
            raise ValueError("max_input_tokens and context_tokens are for model_dir; a deployment has its own")
        if None not in limits and self.max_input_tokens >= self.context_tokens:  # type: ignore[operator]
            raise ValueError("max_input_tokens must be below context_tokens: one token is the least answer")
        addresses = [backend.grpc for backend in self.backends]
        if len(set(addresses)) != len(addresses):
            raise ValueError(f"backends: each grpc address once, found {addresses}")
        return self
