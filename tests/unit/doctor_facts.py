"""Facts of a deployment in good health; each test changes one thing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from slipstream.doctor import EngineFacts, Facts, Finding, GpuFacts, Machine, Methods, Pins, examine
from slipstream.spec import DeploymentSpec
from slipstream.spec_file import load_deployment

ROOT = Path(__file__).resolve().parents[2]
FP8, DRAFT, CPU = "llama-3.1-8b-fp8-h100", "llama-3.3-70b-fp8-tp4-draft", "smollm2-135m-cpu"
PINS = Pins(
    image="nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3",
    tensorrt_llm="1.2.1",
    tensorrt="10.14.1.48",
    modelopt="0.37.0",
    transformers="4.57.3",
    cuda="13.1.0.036",
    minimum_driver="590.44.01",
)
H100 = GpuFacts(index=0, name="NVIDIA H100 80GB HBM3", sm=90, memory_mib=81559, driver="590.44.01")
CPU_PACKAGES = {"nvidia-pytriton": "0.7.0", "openvino-genai": "2026.4.1.0", "numpy": "1.26.4"}


def a_spec(name: str = FP8, *overrides: str) -> DeploymentSpec:
    return load_deployment(name, overrides, root=ROOT)


def an_engine(**changes: Any) -> EngineFacts:
    """The engine of the FP8 deployment, as `trtllm-build` of 1.2.1 describes it."""
    build = {
        "max_batch_size": 256,
        "max_num_tokens": 8192,
        "max_seq_len": 16384,
        "max_input_len": 16383,
        "max_beam_width": 1,
        "max_draft_len": 0,
        "kv_cache_type": "PAGED",
    }
    plugins = {"use_paged_context_fmha": True, "remove_input_padding": True, "gpt_attention_plugin": "bfloat16"}
    return EngineFacts(
        role=changes.pop("role", "target"),
        directory="/models/engine",
        version=changes.pop("version", "1.2.1"),
        world_size=changes.pop("world_size", 1),
        ranks=changes.pop("ranks", 1),
        quant_algo=changes.pop("quant_algo", "FP8"),
        kv_cache_quant_algo=changes.pop("kv_cache_quant_algo", "FP8"),
        built_on="NVIDIA H100 80GB HBM3",
        built_sm=changes.pop("built_sm", 90),
        plugins={**plugins, **changes.pop("plugins", {})},
        build={**build, **changes},
    )


def healthy(**changes: Any) -> Facts:
    """The FP8 deployment on one H100 inside its container, engine built."""
    facts = Facts(
        machine=Machine(gpus=(H100,), shm_bytes=8 << 30, packages={"tensorrt-llm": "1.2.1", "transformers": "4.57.3"}),
        pins=PINS,
        spec=a_spec(),
        methods=Methods(target="fp8"),
        hardware_sm=90,
        engines=(an_engine(),),
    )
    return replace(facts, **changes)


def a_machine(**changes: Any) -> Machine:
    return replace(healthy().machine, **changes)


def on_the_cpu(**changes: Any) -> Facts:
    """The embedded default on a machine without a GPU."""
    facts = Facts(machine=Machine(shm_bytes=8 << 30, packages=CPU_PACKAGES), pins=PINS, spec=a_spec(CPU))
    return replace(facts, **changes)


def found(facts: Facts, id_: str) -> list[Finding]:
    return [finding for finding in examine(facts).findings if finding.id == id_]


def one(facts: Facts, id_: str) -> Finding:
    (finding,) = found(facts, id_)
    return finding


def without_cves(facts: Facts) -> set[str]:
    """Ids of what was found besides vulnerabilities."""
    return {finding.id for finding in examine(facts).findings if not finding.id.startswith("CVE-")}
