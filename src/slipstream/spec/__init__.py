"""The deployment spec: the only place where a fact about a deployment is written.

`deployments/NAME.yaml` is read once, at the edge, into a frozen `DeploymentSpec`; nothing inside reads YAML again.
Settings are grouped by what a change of one of them costs:

========================  =====================================================================
`model`, `quantization`   the checkpoint is made again, and everything after it
`engine`                  the engine is compiled again (tp_size and pp_size: the checkpoint too)
`runtime`                 the model repository is rendered again and the models are reloaded
`gateway`                 nothing: `slipstream reload` gives it to the running gateway
`hardware`                nothing: what the rest is checked against before it is paid for
========================  =====================================================================

Names are TensorRT-LLM's and Triton's own, so that their manuals can be searched.
"""

from slipstream.spec.deployment import DeploymentSpec
from slipstream.spec.engine import DraftSpec, EngineSpec, LoraSpec, SpeculationSpec, TrtllmBuildSpec
from slipstream.spec.gateway import GatewaySpec
from slipstream.spec.gateway_admission import GatewayAdmissionSpec
from slipstream.spec.gateway_cache import CacheSpec
from slipstream.spec.gateway_complexity import ComplexitySpec
from slipstream.spec.gateway_connections import ConnectionSpec
from slipstream.spec.gateway_embeddings import EmbeddingCacheSpec
from slipstream.spec.gateway_limits import GatewayLimitsSpec
from slipstream.spec.gateway_observability import GatewayObservabilitySpec
from slipstream.spec.gateway_responses import ResponsesSpec
from slipstream.spec.gateway_routing import RoutingSpec
from slipstream.spec.gateway_security import AuditSpec, JwtSpec, SecuritySpec, TlsSpec, is_loopback
from slipstream.spec.gateway_upstreams import BackendSpec, UpstreamSpec
from slipstream.spec.groups import (
    Dtype,
    Execution,
    Group,
    HardwareSpec,
    KvCacheFormat,
    ModelSpec,
    QuantizationSpec,
    Target,
)
from slipstream.spec.runtime import LlmApiSpec, PortsSpec, RuntimeSpec, TensorrtLlmSpec

__all__ = [
    "AuditSpec",
    "BackendSpec",
    "CacheSpec",
    "ComplexitySpec",
    "ConnectionSpec",
    "DeploymentSpec",
    "DraftSpec",
    "Dtype",
    "EmbeddingCacheSpec",
    "EngineSpec",
    "Execution",
    "GatewayAdmissionSpec",
    "GatewayLimitsSpec",
    "GatewayObservabilitySpec",
    "GatewaySpec",
    "Group",
    "HardwareSpec",
    "JwtSpec",
    "KvCacheFormat",
    "LlmApiSpec",
    "LoraSpec",
    "ModelSpec",
    "PortsSpec",
    "QuantizationSpec",
    "ResponsesSpec",
    "RoutingSpec",
    "RuntimeSpec",
    "SecuritySpec",
    "SpeculationSpec",
    "Target",
    "TensorrtLlmSpec",
    "TlsSpec",
    "TrtllmBuildSpec",
    "UpstreamSpec",
    "is_loopback",
]
