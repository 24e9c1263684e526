"""Migration of an engine deployment to the LLM API: the new file, and that nothing is lost without a word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from slipstream.errors import SpecError
from slipstream.migrate import tables
from slipstream.migrate.deployment import recipe_for
from slipstream.migrate.migration import migrate, write_migration
from slipstream.repository.llmapi import plan_llmapi, verify_llmapi, write_llmapi
from slipstream.repository.model_plan import Locations
from slipstream.spec import DeploymentSpec, RuntimeSpec, TensorrtLlmSpec, TrtllmBuildSpec
from slipstream.spec_file import load_deployment

ROOT = Path(__file__).resolve().parents[2]
CONTRACT = json.loads((ROOT / "tests/contract/trtllm-1.2.1/triton_models.json").read_text())
ENGINES = [
    path.stem
    for path in sorted((ROOT / "deployments").glob("*.yaml"))
    if load_deployment(path.stem, root=ROOT).engine.target == "tensorrt_llm"
]
H100, A100, B200 = 90, 80, 100

# A value that is not the default, for each field that a deployment may set and the LLM API has no word for.
OTHER_VALUES: dict[str, Any] = {
    "engine.trtllm_build.opt_num_tokens": 512,
    "engine.trtllm_build.multiple_profiles": True,
    "engine.trtllm_build.tokens_per_block": 64,
    "engine.trtllm_build.use_fp8_context_fmha": False,
    "engine.trtllm_build.gemm_plugin": "fp8",
    "engine.trtllm_build.workers": 2,
    "runtime.triton_max_batch_size": 8,
    "runtime.launch_mode": "leader",
    "runtime.max_queue_delay_microseconds": 5,
    "runtime.default_queue_timeout_microseconds": 7,
    "runtime.queue_timeout_action": "DELAY",
    "runtime.allow_queue_timeout_override": True,
    "runtime.preprocessing_instances": 3,
    "runtime.bls_instances": 3,
    "runtime.engine_instances": 2,
    "runtime.stats_check_period_ms": 11,
    "runtime.tensorrt_llm.max_tokens_in_paged_kv_cache": 4096,
    "runtime.tensorrt_llm.kv_cache_host_memory_bytes": 1 << 30,
    "runtime.tensorrt_llm.decoding_mode": "top_k",
    "runtime.tensorrt_llm.guided_decoding_backend": "xgrammar",
    "runtime.tensorrt_llm.cuda_graph_mode": False,
    "engine.max_beam_width": 4,
    "engine.checkpoint_dir": "/models/checkpoint",
    "engine.lora": {"max_lora_rank": 8},
}


def a_deployment(**changes: Any) -> DeploymentSpec:
    """The one-GPU reference with dotted fields changed."""
    settings = load_deployment("llama-3.1-8b-fp8-h100", root=ROOT).model_dump(exclude_defaults=True)
    for field, value in changes.items():
        *groups, last = field.split(".")
        place = settings
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    return DeploymentSpec.model_validate(settings)


def olds(spec: DeploymentSpec) -> list[str]:
    return [change.old for change in migrate(spec).changes]


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_deployment_migrates_to_a_file_that_loads_and_renders(name: str, tmp_path: Path) -> None:
    migration = migrate(load_deployment(name, root=ROOT), sm=H100)
    path = tmp_path / f"{name}-llmapi.yaml"
    write_migration(migration, path)
    spec = load_deployment(str(path), root=ROOT)
    assert spec == migration.spec
    assert spec.engine.target == "llmapi"
    repository = tmp_path / "model_repository"
    repository.mkdir()
    places = Locations(engine_dir="/models/checkpoint", tokenizer_dir="/models/model", draft_engine_dir="/models/draft")
    write_llmapi(plan_llmapi(spec, places), repository)
    verify_llmapi(repository)
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []


@pytest.mark.parametrize("field", OTHER_VALUES)
def test_a_setting_that_is_lost_is_named(field: str) -> None:
    spec = a_deployment(**{field: OTHER_VALUES[field]})
    (named,) = [old for old in olds(spec) if old.startswith(f"{field}: ")]
    assert named not in olds(a_deployment())
    assert migrate(spec).spec.engine.max_seq_len == spec.engine.max_seq_len


def test_what_the_llm_api_reads_too_stays_as_it_was() -> None:
    kept = {
        "engine.tp_size": 2,
        "engine.max_num_tokens": 4096,
        "hardware.gpus_per_node": 2,
        "runtime.enable_kv_cache_reuse": False,
        "runtime.enable_chunked_context": False,
        "runtime.kv_cache_free_gpu_mem_fraction": 0.7,
        "runtime.batch_scheduler_policy": "max_utilization",
        "runtime.max_queue_size": 5,
        "runtime.decoupled": False,
        "runtime.add_special_tokens": False,
        "runtime.accumulate_tokens": True,
        "runtime.ports": "auto",
    }
    old, plain = a_deployment(**kept), olds(a_deployment())
    new = migrate(old).spec
    for field in kept:
        group, name = field.split(".")
        assert getattr(getattr(new, group), name) == getattr(getattr(old, group), name), field
    assert olds(old) == plain


@pytest.mark.parametrize(
    ("group", "table"),
    [
        (TensorrtLlmSpec, tables.BACKEND_PARAMETERS),
        (TrtllmBuildSpec, tables.BUILD_OPTIONS),
    ],
)
def test_every_field_of_the_engine_target_has_a_fate(group: type[BaseModel], table: dict[str, Any]) -> None:
    assert set(table) == set(group.model_fields)


def test_the_runtime_fields_with_a_fate_exist() -> None:
    assert set(tables.RUNTIME) <= set(RuntimeSpec.model_fields)


def test_every_tensor_of_the_text_models_has_a_fate_among_the_new_ones() -> None:
    new_inputs = {row.split(" ", 1)[0] for row in CONTRACT["llmapi"]["inputs"]}
    new_outputs = set(CONTRACT["llmapi"]["outputs"])
    for key, table, new in (("inputs", tables.INPUTS, new_inputs), ("outputs", tables.OUTPUTS, new_outputs)):
        old = {
            tensor["name"] for model in ("ensemble", "tensorrt_llm_bls") for tensor in CONTRACT["models"][model][key]
        }
        assert set(table) == old
        assert {fate.new for fate in table.values() if fate.new is not None} <= new
    taken = {fate.new for fate in tables.INPUTS.values()} | set(tables.NEW_INPUTS)
    assert taken - {None} == new_inputs


def test_every_model_of_the_repository_has_a_fate() -> None:
    assert set(tables.MODELS) == {*CONTRACT["models"], "tensorrt_llm_draft"}


@pytest.mark.parametrize(
    ("recipe", "sm", "expected"),
    [
        ("int8_sq", H100, "fp8"),
        ("int8_sq", A100, "int8_wo"),
        ("int8_sq", B200, "fp8"),
        ("int8_sq", None, "fp8"),
        ("fp8", A100, "fp8"),
        ("int8_wo", A100, "int8_wo"),
        ("nvfp4", B200, "nvfp4"),
        ("none", A100, "none"),
        ("my_own", H100, "my_own"),
    ],
)
def test_a_format_that_the_llm_api_does_not_read_gives_way_to_one_that_the_gpu_runs(
    recipe: str, sm: int | None, expected: str
) -> None:
    assert recipe_for(recipe, sm) == expected


@pytest.mark.parametrize(
    ("recipe", "sm", "expected"), [("fp8", H100, "fp8"), ("int8_wo", H100, "auto"), ("int4_awq", A100, "auto")]
)
def test_an_int8_kv_cache_becomes_fp8_where_gpu_and_recipe_allow_it(recipe: str, sm: int, expected: str) -> None:
    spec = a_deployment(**{"quantization.recipe": recipe, "quantization.kv_cache": "int8"})
    migration = migrate(spec, sm=sm)
    assert migration.spec.quantization.kv_cache == expected
    assert "quantization.kv_cache: int8" in [change.old for change in migration.changes]


def test_a_recipe_of_ones_own_is_kept_with_a_warning() -> None:
    spec = a_deployment(**{"quantization.recipe": "my_own"})
    (change,) = [change for change in migrate(spec).changes if change.kind == "recipe"]
    assert "must be one that the LLM API reads" in change.note


def test_a_draft_model_speculates_in_streams_with_one_kv_budget() -> None:
    old = load_deployment("llama-3.3-70b-fp8-tp4-draft", root=ROOT)
    new = migrate(old).spec
    assert new.engine.draft is not None
    assert new.engine.draft.max_draft_len == 5
    assert new.runtime.decoupled
    assert new.runtime.kv_cache_free_gpu_mem_fraction == pytest.approx(0.9)
    assert {"runtime.decoupled: false", "engine.draft.kv_cache_free_gpu_mem_fraction: 0.1"} <= set(olds(old))


@pytest.mark.parametrize(
    ("speculation", "expected"),
    [
        (
            {
                "mode": "lookahead",
                "max_draft_len": 8,
                "lookahead_window_size": 4,
                "lookahead_ngram_size": 3,
                "lookahead_verification_set_size": 2,
            },
            "ngram",
        ),
        ({"mode": "medusa", "max_draft_len": 63}, None),
        ({"mode": "eagle", "max_draft_len": 63}, None),
    ],
)
def test_speculation_without_a_draft_becomes_ngrams_or_ends(speculation: dict[str, Any], expected: str | None) -> None:
    changes = {"engine.speculation": speculation}
    if expected is None:
        changes["engine.checkpoint_dir"] = "/models/heads"
    spec = a_deployment(**changes)
    new = migrate(spec).spec.engine.speculation
    assert (new.mode if new else None) == expected
    assert f"engine.speculation.mode: {speculation['mode']}" in olds(spec)


def test_a_switched_off_cuda_graph_stays_off() -> None:
    off = migrate(a_deployment(**{"runtime.tensorrt_llm.cuda_graph_mode": False})).spec
    on = migrate(a_deployment(**{"runtime.tensorrt_llm.cuda_graph_mode": True})).spec
    assert (off.runtime.llmapi.cuda_graph, on.runtime.llmapi.cuda_graph) == (False, True)


def test_the_start_gets_the_time_it_needs() -> None:
    assert migrate(a_deployment()).spec.runtime.startup_timeout_s == 900
    assert "runtime.startup_timeout_s: 600" in olds(a_deployment())
    patient = a_deployment(**{"runtime.startup_timeout_s": 1200})
    assert migrate(patient).spec.runtime.startup_timeout_s == 1200


def test_another_target_is_refused() -> None:
    for name in ("smollm2-135m-cpu", "llama-3.1-8b-nvfp4-llmapi-b200"):
        with pytest.raises(SpecError, match="only tensorrt_llm is migrated"):
            migrate(load_deployment(name, root=ROOT))


def test_a_name_that_is_no_deployments_name_is_refused() -> None:
    with pytest.raises(SpecError, match="String should match pattern"):
        migrate(a_deployment(), name="Not_A_Name")


def test_a_file_that_is_there_is_never_replaced(tmp_path: Path) -> None:
    migration = migrate(a_deployment(), name="other")
    path = tmp_path / "other.yaml"
    path.write_text("mine")
    with pytest.raises(SpecError, match="there is a file already"):
        write_migration(migration, path)
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_whose_name_is_not_the_deployments_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"is called llama-3\.1-8b-fp8-h100-llmapi"):
        write_migration(migrate(a_deployment()), tmp_path / "other.yaml")
    assert not list(tmp_path.iterdir())


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be written"):
        write_migration(migrate(a_deployment(), name="other"), tmp_path / "absent" / "other.yaml")


def test_text_and_json_say_the_same() -> None:
    migration = migrate(load_deployment("llama-3.3-70b-int8-sq-tp8-a100", root=ROOT), sm=A100)
    document = json.loads(json.dumps(migration.as_json()))
    text = migration.as_text()
    assert document["deployment"] == "llama-3.3-70b-int8-sq-tp8-a100-llmapi"
    assert document["from"] == "llama-3.3-70b-int8-sq-tp8-a100"
    assert document["yaml"] == migration.spec_yaml
    assert len(document["changes"]) == len(migration.changes)
    for change in document["changes"]:
        assert change["old"] in text
        assert change["note"] in text
    assert "quantization.recipe: int8_sq → quantization.recipe: int8_wo" in text
    assert "max_tokens → sampling_param_max_tokens" in text
