"""The deployment spec: what is accepted, and how what is not is explained."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from pydantic import ValidationError

from slipstream.errors import SpecError
from slipstream.spec import DeploymentSpec, PortsSpec
from slipstream.spec_file import deployment_names, load_deployment, schema_text

DEFAULT = "smollm2-135m-cpu"
CPU_DRAFT = "smollm2-135m-cpu-draft"
DRAFT = "llama-3.3-70b-fp8-tp4-draft"
GPU = "llama-3.1-8b-fp8-h100"
LLM_API = "llama-3.1-8b-nvfp4-llmapi-b200"


def refusal(root: Path, *overrides: str, deployment: str = DEFAULT) -> str:
    with pytest.raises(SpecError) as caught:
        load_deployment(deployment, overrides, root=root)
    assert caught.value.exit_code == 2
    return str(caught.value)


def a_file(tmp_path: Path, root: Path, old: str = "", new: str = "") -> Path:
    path = tmp_path / f"{DEFAULT}.yaml"
    path.write_text((root / "deployments" / f"{DEFAULT}.yaml").read_text().replace(old, new))
    return path


def test_every_committed_deployment_loads_and_fits_the_schema(root: Path) -> None:
    names = deployment_names(root)
    schema = json.loads((root / "deployments" / "schema.json").read_text())
    assert {DEFAULT, DRAFT, "llama-3.1-8b-fp8-h100"} <= set(names)
    for name in names:
        load_deployment(name, root=root)
        jsonschema.validate(yaml.safe_load((root / "deployments" / f"{name}.yaml").read_text()), schema)


def test_the_committed_schema_is_fresh(root: Path) -> None:
    assert (root / "deployments" / "schema.json").read_text() == schema_text()


def test_a_spec_cannot_be_changed(root: Path) -> None:
    spec = load_deployment(DEFAULT, root=root)
    with pytest.raises(ValidationError):
        spec.engine.max_batch_size = 1  # type: ignore[misc]


def test_an_override_wins_over_the_file(root: Path) -> None:
    spec = load_deployment(DEFAULT, ["engine.max_batch_size=7", "runtime.execution=accuracy"], root=root)
    assert (spec.engine.max_batch_size, spec.runtime.execution) == (7, "accuracy")


def test_tp_and_pp_may_be_written_short_on_the_command_line(root: Path) -> None:
    engine = load_deployment("smollm2-135m-cpu", ["engine.tp=3", "engine.pp=2"], root=root).engine
    assert (engine.tp_size, engine.pp_size) == (3, 2)


def test_ports_are_a_group_or_auto(root: Path) -> None:
    assert load_deployment(DEFAULT, ["runtime.ports=auto"], root=root).runtime.ports == "auto"
    ports = load_deployment(DEFAULT, ["runtime.ports=auto", "runtime.ports.http=9000"], root=root).runtime.ports
    assert isinstance(ports, PortsSpec)
    assert (ports.http, ports.grpc) == (9000, 8001)


def test_a_typo_is_refused_with_the_line_and_the_nearest_field(root: Path, tmp_path: Path) -> None:
    path = a_file(tmp_path, root, "max_batch_size:", "max_batch_sise:")
    message = refusal(root, deployment=str(path))
    line = path.read_text().splitlines().index("  max_batch_sise: 32") + 1
    assert f"{path}:{line}: engine.max_batch_sise: unknown field, did you mean max_batch_size?" in message


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("engine.max_batch_sise=3", "did you mean max_batch_size?"),
        ("runtime.ports.htpp=3", "did you mean http?"),
        ("engine.max_batch_size=0", "found 0"),
        ("engine.max_batch_size=many", "found 'many'"),
        ("engine.max_batch_size=true", "found True"),
        ("engine.max_input_len=4000", "the limit is max_seq_len - 1 = 2047"),
        ("engine.target=cuda", "'openvino', 'tensorrt_llm' or 'llmapi'"),
        ("runtime.ports=none", "'auto'"),
        ("runtime.ports.http=8001", "must differ"),
        ("runtime.kv_cache_free_gpu_mem_fraction=.nan", "finite"),
        ("quantization=3", "found 3"),
        ("model.source=", "found None"),
        ("name=Smol", "name"),
        ("name=other", "the file's name says"),
        ("nonsense", "KEY=VALUE is expected"),
        ("a..b=1", "KEY=VALUE is expected"),
        ("engine.max_seq_len=[1", "not valid YAML"),
        ("description=!!int foo", "--set description=!!int foo: not valid YAML: 'foo' cannot be read as int"),
        ("description=2020-13-45", "'2020-13-45' cannot be read as timestamp"),
        ("engine.max_batch_size=" + "9" * 5000, "999…' cannot be read as int"),
        ("engine.max_batch_size=0x" + "f" * 5000, "fff…' cannot be read as int"),
        ("engine={[a, b]: 1}", "a key must be text, found a sequence"),
        ("runtime.ports={1: 2}", "a key must be text, found 1"),
        ("description=" + "[" * 5000, "nested too deeply"),
    ],
)
def test_a_bad_value_is_explained(root: Path, override: str, expected: str) -> None:
    message = refusal(root, override)
    assert expected in message
    assert "mend:" in message
    assert "PortsSpec" not in message


def test_a_draft_needs_the_non_decoupled_profile(root: Path) -> None:
    assert "non-decoupled" in refusal(root, "runtime.decoupled=true", deployment=DRAFT)
    assert "resends" in refusal(root, "runtime.enable_kv_cache_reuse=false", deployment=DRAFT)
    assert "echoed" in refusal(root, "runtime.exclude_input_in_output=true", deployment=DRAFT)
    assert "all tokens so far" in refusal(root, "engine.max_input_len=4096", deployment=DRAFT)


def test_the_kv_fractions_of_target_and_draft_leave_room(root: Path) -> None:
    assert "sum to 1" in refusal(root, "engine.draft.kv_cache_free_gpu_mem_fraction=0.2", deployment=DRAFT)


@pytest.mark.parametrize(
    ("name", "value"), [("decoupled", "true"), ("exclude_input_in_output", "true"), ("enable_kv_cache_reuse", "false")]
)
def test_a_draft_needs_the_same_profile_on_the_cpu(root: Path, name: str, value: str) -> None:
    said = refusal(root, f"runtime.{name}={value}", deployment=CPU_DRAFT)
    assert f"runtime.{name} is {value}, engine.draft needs" in said
    assert load_deployment(CPU_DRAFT, ["engine.draft.kv_cache_free_gpu_mem_fraction=0.2"], root=root).engine.draft


def test_an_unknown_deployment_is_refused_with_the_known_ones(root: Path) -> None:
    message = refusal(root, deployment="smollm2-135m-cpuu")
    assert "did you mean smollm2-135m-cpu?" in message
    assert "llama-3.1-8b-fp8-h100" in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "a mapping is expected"),
        ("- 1", "a mapping is expected"),
        ("name: [", "not valid YAML"),
        ("name: a\nname: b", ":2: not valid YAML: name is given twice"),
        ("[" * 5000, "nested too deeply"),
        ("x" * (1 << 20) + "xx", "the limit is 1048576"),
        ("!!python/object:os.system {}", "not valid YAML"),
        ("name: a\ndescription: 2020-13-45", ":2: not valid YAML: '2020-13-45' cannot be read as timestamp"),
        ("name: a\ndescription: !!bool foo", ":2: not valid YAML: 'foo' cannot be read as bool"),
        ("name: a\ndescription: !!float ''", ":2: not valid YAML: '' cannot be read as float"),
        ("name: a\ndescription: !!timestamp foo", ":2: not valid YAML: 'foo' cannot be read as timestamp"),
        ("name: a\nengine: !!map 3", ":2: not valid YAML: expected a mapping"),
        ("name: a\nengine:\n  x: " + "9" * 5000, ":3: not valid YAML: '9999"),
        ('name: "\\UFFFFFFFF"', "not valid YAML"),
        ("name: a\n? [a, b]\n: 1", ":2: not valid YAML: a key must be text, found a sequence"),
        ("name: a\n? {a: b}\n: 1", ":2: not valid YAML: a key must be text, found a mapping"),
        ("name: a\n1: 2", ":2: not valid YAML: a key must be text, found 1"),
        ("&a {<<: *a}", ":1: not valid YAML: the alias *a is not followed"),
        ("name: &a x\nengine: {draft: *a}", ":2: not valid YAML: the alias *a is not followed"),
    ],
)
def test_a_file_that_is_no_deployment_is_refused(root: Path, tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / f"{DEFAULT}.yaml"
    path.write_text(content)
    assert expected in refusal(root, deployment=str(path))


def test_a_file_that_is_not_utf8_is_refused(root: Path, tmp_path: Path) -> None:
    path = tmp_path / f"{DEFAULT}.yaml"
    path.write_bytes(b"name: \xff")
    assert "cannot be read" in refusal(root, deployment=str(path))


def test_defaults_alone_make_a_deployment() -> None:
    spec = DeploymentSpec.model_validate(
        {"name": "x", "model": {"source": "org/name"}, "engine": {"target": "openvino"}}
    )
    assert isinstance(spec.runtime.ports, PortsSpec)
    assert spec.runtime.ports.gateway == 8080


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("runtime.tensorrt_llm.gpu_device_ids=0", "write it in quotes, '\"0\"'"),
        ("runtime.tensorrt_llm.max_attention_window_size=4096", "write it in quotes"),
        ("engine.max_num_tokens=1e3", "write it without an exponent"),
        ("runtime.tensorrt_llm.max_tokens_in_paged_kv_cache=2147483648", "less than or equal to 2147483647"),
        ("runtime.tensorrt_llm.iter_stats_max_iterations=2147483648", "less than or equal to 2147483647"),
        ("runtime.tensorrt_llm.lora_cache_max_adapter_size=513", "less than or equal to 512"),
        ("runtime.tensorrt_llm.gpu_device_ids='٣'", "should match pattern"),
    ],
)
def test_a_value_in_the_wrong_form_is_explained(root: Path, override: str, said: str) -> None:
    assert said in refusal(root, override, deployment="llama-3.1-8b-fp8-h100")


@pytest.mark.parametrize(
    ("deployment", "overrides", "said"),
    [
        (DEFAULT, ("runtime.engine_instances=2",), "the CPU engine runs one"),
        (GPU, ("runtime.stream_interval=auto",), "stream_interval is auto, target tensorrt_llm sends each token"),
        (GPU, ("runtime.stream_interval=2",), "stream_interval is 2, target tensorrt_llm sends each token by itself"),
        (DEFAULT, ("engine.max_beam_width=9", "engine.max_num_tokens=8"), "the limit is max_num_tokens = 8"),
        (DEFAULT, ("runtime.tensorrt_llm.cuda_graph_mode=true",), "parameters of the C++ backend"),
        (DEFAULT, ("runtime.llmapi.cuda_graph=false",), "arguments of the LLM API"),
        (DEFAULT, ("engine.trtllm_build.tokens_per_block=64",), "target openvino does not run it"),
        (GPU, ("engine.trtllm_build.use_paged_context_fmha=false",), "enable_kv_cache_reuse is true, it needs"),
        (GPU, ("runtime.tensorrt_llm.gpu_weights_percent=0.5",), "below 1 it needs"),
        (GPU, ("runtime.tensorrt_llm.decoding_mode=beam_search",), "engine.max_beam_width is 1"),
        (GPU, ("runtime.tensorrt_llm.decoding_mode=top_k", "engine.max_beam_width=2"), "is 2: needs 1"),
        (GPU, ("engine.trtllm_build={multiple_profiles: true, opt_num_tokens: 8}",), "trtllm-build refuses the pair"),
        (GPU, ("engine.trtllm_build={weight_streaming: true, gemm_plugin: fp8}",), "weight_streaming needs it"),
        (GPU, ("engine.trtllm_build={user_buffer: true, reduce_fusion: false}",), "user_buffer needs reduce_fusion"),
        (GPU, ("engine.speculation={mode: medusa, max_draft_len: 5}",), "checkpoint_dir missing"),
        (
            GPU,
            ("engine.speculation={mode: ngram, max_draft_len: 5}",),
            "it needs target llmapi or openvino, found tensorrt_llm",
        ),
        (
            DEFAULT,
            ("engine.speculation={mode: eagle3, max_draft_len: 5, speculative_model: x}",),
            "needs target llmapi",
        ),
        (DEFAULT, ("engine.speculation={mode: draft_target, max_draft_len: 5}",), "speculative_model is missing"),
        (DEFAULT, ("runtime.speculation=on",), "it is for engine.speculation of target openvino"),
        (GPU, ("engine.speculation={mode: medusa, max_draft_len: 5, eagle_choices: '{0}'}",), "has no such setting"),
        (GPU, ("engine.speculation={mode: lookahead, max_draft_len: 5}",), "lookahead_window_size is missing"),
        (DRAFT, ("engine.trtllm_build.gather_context_logits=true",), "refuses it with draft tokens"),
        (DRAFT, ("engine.max_beam_width=2",), "speculation needs 1"),
        (DRAFT, ("engine.speculation={mode: medusa, max_draft_len: 5}",), "leave one out"),
        (DRAFT, ("runtime.tensorrt_llm.decoding_mode=top_k",), "speculation needs it left out"),
        (DRAFT, ("hardware.nodes=2", "runtime.launch_mode=orchestrator"), "it runs on one node"),
        (GPU, ("engine.tp_size=2",), "hardware has 1 x 1 GPUs"),
        (
            GPU,
            ("runtime.engine_instances=2", "runtime.tensorrt_llm.gpu_device_ids='0;1'"),
            "which needs launch_mode orchestrator",
        ),
        (GPU, ("runtime.tensorrt_llm.gpu_device_ids='0;1'",), "has 2 instances, engine_instances is 1"),
        (GPU, ("runtime.tensorrt_llm.cuda_graph_cache_size=5",), "no graph would be kept"),
        (LLM_API, ("engine.checkpoint_dir=/x",), "target llmapi reads a Hugging Face one"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(
    root: Path, deployment: str, overrides: tuple[str, ...], said: str
) -> None:
    assert said in refusal(root, *overrides, deployment=deployment)
