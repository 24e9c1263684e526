"""The doctor on built engines: read from disk, compared with runtime, GPU and spec."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slipstream.doctor import Facts, Methods, examine
from slipstream.doctor.gather import gather_facts, read_engine
from slipstream.errors import SlipstreamError
from slipstream.project import Workspace
from tests.unit.doctor_facts import (
    DRAFT,
    FP8,
    H100,
    PINS,
    ROOT,
    a_machine,
    a_spec,
    an_engine,
    found,
    healthy,
    one,
    without_cves,
)


def with_engine(**changes: Any) -> Facts:
    return healthy(engines=(an_engine(**changes),))


def drafting(max_draft_len: int) -> Facts:
    """The draft-target deployment with both engines on four H100."""
    sizes = {"world_size": 4, "ranks": 4, "max_batch_size": 64}
    target = an_engine(**sizes, max_draft_len=max_draft_len)
    draft = an_engine(**sizes, role="draft")
    return healthy(
        spec=a_spec(DRAFT),
        methods=Methods(target="fp8", draft="fp8"),
        machine=a_machine(gpus=tuple(replace(H100, index=index) for index in range(4))),
        engines=(target, draft),
    )


@pytest.mark.parametrize("version", ["1.2.0", "1.1.0", "unknown"])
def test_an_engine_of_another_tensorrt_llm_blocks(version: str) -> None:
    finding = one(with_engine(version=version), "engine-version")
    assert finding.severity == "critical"
    assert version in finding.what
    assert finding.mend == f"slipstream build {FP8}"


def test_on_a_laptop_the_engine_is_compared_with_the_container() -> None:
    laptop = healthy(machine=a_machine(gpus=(), packages={}), engines=(an_engine(version="1.1.0"),))
    assert "in the container" in one(laptop, "engine-version").what


def test_an_engine_of_another_gpu_blocks() -> None:
    finding = one(with_engine(built_sm=80), "engine-gpu")
    assert finding.severity == "critical"
    assert "sm_80" in finding.what
    assert "sm_90" in finding.mend


def test_without_a_gpu_the_engine_is_compared_with_the_spec() -> None:
    laptop = healthy(machine=a_machine(gpus=()), engines=(an_engine(built_sm=80),))
    assert "hardware.gpu" in one(laptop, "engine-gpu").what


def test_the_gpu_at_hand_counts_before_the_spec() -> None:
    b200 = replace(H100, name="NVIDIA B200", sm=100)
    assert "the GPU here is sm_100" in one(healthy(machine=a_machine(gpus=(b200,))), "engine-gpu").what


def test_an_engine_of_unknown_gpu_is_said() -> None:
    assert one(with_engine(built_sm=None), "engine-gpu-unknown").severity == "low"


def test_an_engine_for_another_number_of_ranks_blocks() -> None:
    assert "2 ranks" in one(with_engine(world_size=2, ranks=2), "engine-ranks").what


def test_a_missing_rank_file_blocks() -> None:
    facts = healthy(spec=a_spec(FP8, "engine.tp_size=2", "hardware.gpus_per_node=2"))
    facts = replace(facts, engines=(an_engine(world_size=2, ranks=1),), machine=a_machine(gpus=(H100, H100)))
    assert "1 rank files" in one(facts, "engine-ranks").what


@pytest.mark.parametrize("name", ["max_batch_size", "max_num_tokens", "max_seq_len"])
def test_a_size_below_the_spec_is_named(name: str) -> None:
    whats = [finding.what for finding in found(with_engine(**{name: 64}), "engine-sizes")]
    assert any(f"{name} is 64" in what for what in whats)


def test_triton_batches_beyond_the_engine_are_named() -> None:
    spec = a_spec(FP8, "engine.max_batch_size=128", "runtime.triton_max_batch_size=256")
    findings = found(healthy(spec=spec, engines=(an_engine(max_batch_size=128),)), "engine-sizes")
    assert [finding.severity for finding in findings] == ["medium"]


def test_an_engine_in_another_format_is_named() -> None:
    assert "16-bit" in one(with_engine(quant_algo=None), "engine-format").what
    assert "KV cache" in one(with_engine(kv_cache_quant_algo=None), "engine-format").what


def test_no_quantization_has_two_names() -> None:
    spec = a_spec(FP8, "quantization.recipe=none", "quantization.kv_cache=auto")
    engine = an_engine(quant_algo="NO_QUANT", kv_cache_quant_algo=None)
    assert not found(healthy(spec=spec, methods=Methods(target="none"), engines=(engine,)), "engine-format")


@pytest.mark.parametrize(
    "change",
    [
        {"kv_cache_type": "CONTINUOUS"},
        {"plugins": {"remove_input_padding": False}},
        {"plugins": {"gpt_attention_plugin": None}},
    ],
)
def test_an_engine_that_cannot_batch_in_flight_blocks(change: dict[str, Any]) -> None:
    assert one(with_engine(**change), "engine-inflight").severity == "critical"


def test_paged_context_fmha_off_loses_reuse_and_chunks() -> None:
    off = an_engine(plugins={"use_paged_context_fmha": False})
    what = one(healthy(engines=(off,)), "engine-paged-fmha").what
    assert "enable_kv_cache_reuse" in what
    assert "enable_chunked_context" in what
    spec = a_spec(FP8, "runtime.enable_kv_cache_reuse=false", "runtime.enable_chunked_context=false")
    assert not found(healthy(spec=spec, engines=(off,)), "engine-paged-fmha")


def test_a_pair_that_fits_is_healthy() -> None:
    assert without_cves(drafting(5)) == {"engine-workflow"}


@pytest.mark.parametrize("length", [0, 4])
def test_a_target_that_verifies_fewer_draft_tokens_blocks(length: int) -> None:
    assert one(drafting(length), "engine-draft").severity == "critical"


def test_a_missing_draft_engine_is_said() -> None:
    facts = drafting(5)
    assert "draft" in one(replace(facts, engines=facts.engines[:1]), "engine-missing").what


def write_engine(directory: Path, **changes: Any) -> Path:
    directory.mkdir(parents=True)
    config = {
        "version": "1.2.1",
        "pretrained_config": {
            "architecture": "LlamaForCausalLM",
            "mapping": {"world_size": 1, "tp_size": 1, "pp_size": 1},
            "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"},
        },
        "build_config": {**an_engine().build, "plugin_config": dict(an_engine().plugins)},
    }
    (directory / "config.json").write_text(json.dumps(config | changes))
    (directory / "rank0.engine").write_bytes(b"engine")
    return directory


def test_an_engine_is_read_from_its_directory(tmp_path: Path) -> None:
    directory = write_engine(tmp_path / "engine")
    (directory / "manifest.json").write_text(
        json.dumps({"facts": {"gpu": {"name": "NVIDIA H100 80GB HBM3", "sm": 90}}})
    )
    engine = read_engine(directory, "target")
    assert (engine.version, engine.ranks, engine.world_size, engine.built_sm) == ("1.2.1", 1, 1, 90)
    assert (engine.quant_algo, engine.kv_cache_quant_algo) == ("FP8", "FP8")
    assert without_cves(healthy(engines=(engine,))) == {"engine-workflow"}


@pytest.mark.parametrize("manifest", [None, "{", "[]", '{"facts": null}', '{"facts": {"gpu": null}}'])
def test_an_engine_whose_manifest_says_no_gpu_is_of_unknown_gpu(tmp_path: Path, manifest: str | None) -> None:
    directory = write_engine(tmp_path / "engine")
    if manifest is not None:
        (directory / "manifest.json").write_text(manifest)
    assert read_engine(directory, "target").built_sm is None


def test_the_manifest_is_the_one_that_a_build_writes() -> None:
    from dataclasses import fields

    from slipstream.engine.trtllm.gpus import Gpu
    from slipstream.engine.trtllm.run import EngineReport

    assert "gpu" in {field.name for field in fields(EngineReport)}
    assert {"name", "sm"} <= {field.name for field in fields(Gpu)}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"build_config": 1}', '{"pretrained_config": []}'])
def test_an_unreadable_config_is_one_clear_error(tmp_path: Path, text: str) -> None:
    directory = write_engine(tmp_path / "engine")
    (directory / "config.json").write_text(text)
    with pytest.raises(SlipstreamError, match=r"config\.json: the engine's config cannot be read"):
        read_engine(directory, "target")


def test_an_unreadable_engine_blocks_the_deployment(tmp_path: Path) -> None:
    workspace = Workspace(directory=tmp_path)
    write_engine(workspace.engine)
    (workspace.engine / "config.json").write_text("{")
    facts = gather_facts(root=ROOT, spec=a_spec(), workspace=workspace)
    assert one(facts, "engine-unreadable").severity == "critical"
    assert not found(facts, "engine-missing")


def test_a_workspace_without_an_engine_is_told_to_build(tmp_path: Path) -> None:
    facts = gather_facts(root=ROOT, spec=a_spec(), workspace=Workspace(directory=tmp_path))
    assert one(facts, "engine-missing").mend == f"slipstream build {FP8}"
    assert facts.pins == PINS


def test_the_gravest_finding_comes_first() -> None:
    facts = healthy(engines=(an_engine(built_sm=None, version="1.1.0"),))
    severities = [finding.severity for finding in examine(facts).findings]
    assert severities[0] == "critical"
    assert severities == sorted(severities, key=["critical", "high", "medium", "low", "info"].index)


@pytest.mark.parametrize(
    "pretrained",
    [
        {"mapping": {"world_size": "two"}},
        {"mapping": {"world_size": None}},
        {"mapping": []},
        {"quantization": ["FP8"]},
        {"quantization": {"quant_algo": ["FP8"]}},
    ],
)
def test_a_config_of_the_wrong_types_is_one_finding(tmp_path: Path, pretrained: dict[str, Any]) -> None:
    config = {"version": "1.2.1", "pretrained_config": pretrained, "build_config": {"plugin_config": {}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(SlipstreamError, match="the engine's config cannot be read"):
        read_engine(tmp_path, "target")


def test_the_format_of_a_checkpoint_from_elsewhere_is_its_own() -> None:
    spec = a_spec(FP8, "engine.checkpoint_dir=/models/medusa")
    assert not found(healthy(spec=spec, engines=(an_engine(quant_algo=None),)), "engine-format")
