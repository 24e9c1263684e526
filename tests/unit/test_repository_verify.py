"""Verification: one thing in a good repository is changed, and the error names file, key, found and expected."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slipstream.errors import SlipstreamError
from slipstream.repository.pbtxt import read_config, to_text
from slipstream.repository.verify import verify_repository
from tests.unit.repository_fixtures import DEFAULT, DEPLOYMENTS, DRAFT_GPU, a_deployment, a_repository

Change = Callable[[Any], object]


def refusal(repository: Path) -> str:
    with pytest.raises(SlipstreamError) as caught:
        verify_repository(repository)
    assert caught.value.mend
    return caught.value.message


def edit(repository: Path, model: str, change: Change) -> None:
    path = repository / model / "config.pbtxt"
    config = read_config(path)
    change(config)
    path.write_text(to_text(config))


def set_parameter(key: str, text: str) -> Change:
    return lambda config: setattr(config.parameters[key], "string_value", text)


@pytest.fixture
def repository(root: Path, tmp_path: Path) -> Path:
    return a_repository(tmp_path, a_deployment(root, DEFAULT))


@pytest.fixture
def speculating(root: Path, tmp_path: Path) -> Path:
    return a_repository(tmp_path, a_deployment(root, DRAFT_GPU))


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_rendering_of_every_reference_deployment_is_in_order(root: Path, tmp_path: Path, name: str) -> None:
    verify_repository(a_repository(tmp_path, a_deployment(root, name)))


@pytest.mark.parametrize(
    ("model", "change", "said"),
    [
        ("preprocessing", lambda c: setattr(c.input[0], "data_type", 8), "input QUERY: data_type is TYPE_INT32"),
        ("preprocessing", lambda c: c.input[0].dims.append(-1), "input QUERY: dims is (1, -1), expected (1,)"),
        ("tensorrt_llm", lambda c: setattr(c.input[0], "optional", False), "input input_ids: optional is False"),
        ("tensorrt_llm", lambda c: setattr(c.input[0], "allow_ragged_batch", False), "allow_ragged_batch is False"),
        ("tensorrt_llm", lambda c: c.input[2].ClearField("reshape"), "reshape_to_scalar is False, expected True"),
        ("tensorrt_llm", lambda c: c.input[2].reshape.shape.append(1), "reshape_to_scalar is False, expected True"),
        ("tensorrt_llm", lambda c: setattr(c.input[30], "name", "random_seed"), "input seed is absent"),
        ("tensorrt_llm", lambda c: c.output.add(name="output_id"), "output output_id is declared"),
        ("tensorrt_llm", lambda c: c.output.append(c.output[0]), "output output_ids is declared 2 times"),
        ("ensemble", lambda c: c.output.pop(), "output num_output_tokens is absent"),
        ("ensemble", lambda c: c.ensemble_scheduling.step.pop(), "ensemble_scheduling is"),
        (
            "ensemble",
            lambda c: c.ensemble_scheduling.step[1].input_map.update({"seed": "random_seed"}),
            "input_map seed is random_seed, expected seed",
        ),
        (
            "ensemble",
            lambda c: c.ensemble_scheduling.step[0].output_map.pop("INPUT_ID"),
            "output_map INPUT_ID is absent, expected _INPUT_ID",
        ),
        ("tensorrt_llm", lambda c: c.parameters.pop("tokenizer_dir"), "parameter tokenizer_dir is absent"),
        ("tensorrt_llm", lambda c: c.parameters.pop("slipstream_execution"), "slipstream_execution is absent"),
        ("tensorrt_llm", set_parameter("worker_path", "/x"), "parameter worker_path is set"),
        ("tensorrt_llm", set_parameter("gpt_model_type", "v2"), "parameter gpt_model_type is 'v2', expected one of"),
        ("tensorrt_llm", set_parameter("max_beam_width", "one"), "max_beam_width is 'one', expected a whole number"),
        ("tensorrt_llm", set_parameter("gpt_model_path", "/${engine_dir}"), "no placeholder"),
        ("postprocessing", set_parameter("tokenizer_dir", ""), "tokenizer_dir is '', expected an absolute path"),
        (
            "postprocessing",
            lambda c: setattr(c, "backend", "tensorrtllm"),
            "backend is 'tensorrtllm', expected 'python'",
        ),
        ("postprocessing", lambda c: setattr(c, "name", "post"), "name is 'post', expected 'postprocessing'"),
        ("postprocessing", lambda c: setattr(c, "max_batch_size", 0), "max_batch_size is 0"),
        ("postprocessing", lambda c: setattr(c.instance_group[0], "kind", 1), "instance_group is"),
        ("ensemble", lambda c: setattr(c, "platform", ""), "platform is ''"),
        ("ensemble", lambda c: setattr(c, "max_batch_size", 65), "max_batch_size is 65, expected 64 or less"),
        ("tensorrt_llm_bls", lambda c: c.ClearField("model_transaction_policy"), "decoupled is false, expected true"),
        (
            "tensorrt_llm_bls",
            set_parameter("tensorrt_llm_draft_model_name", "tensorrt_llm_draft"),
            "tensorrt_llm_draft_model_name is tensorrt_llm_draft, expected a model of this repository",
        ),
    ],
)
def test_one_changed_fact_is_found(repository: Path, model: str, change: Change, said: str) -> None:
    edit(repository, model, change)
    message = refusal(repository)
    assert message.startswith(str(repository / model / "config.pbtxt"))
    assert said in message


@pytest.mark.parametrize(
    ("model", "change", "said"),
    [
        ("tensorrt_llm", set_parameter("exclude_input_in_output", "true"), "exclude_input_in_output is true"),
        ("tensorrt_llm_draft", lambda c: c.parameters.pop("enable_kv_cache_reuse"), "enable_kv_cache_reuse is absent"),
        ("tensorrt_llm_draft", set_parameter("decoding_mode", "top_k"), "decoding_mode is top_k, expected absent"),
        ("tensorrt_llm_draft", set_parameter("kv_cache_free_gpu_mem_fraction", "0.3"), "0.8 + 0.3 with the target's"),
        (
            "tensorrt_llm_draft",
            lambda c: c.parameters.pop("kv_cache_free_gpu_mem_fraction"),
            "kv_cache_free_gpu_mem_fraction is absent",
        ),
        (
            "tensorrt_llm_bls",
            lambda c: c.parameters.pop("tensorrt_llm_draft_model_name"),
            "tensorrt_llm_draft_model_name is absent",
        ),
    ],
)
def test_what_speculation_needs_is_held(speculating: Path, model: str, change: Change, said: str) -> None:
    edit(speculating, model, change)
    message = refusal(speculating)
    assert message.startswith(str(speculating / model / "config.pbtxt"))
    assert said in message


def set_all(**texts: str) -> Change:
    def change(config: Any) -> None:
        for key, text in texts.items():
            config.parameters[key].string_value = text

    return change


FAST = "speculative_decoding_fast_logits"
ONE_SHARE = set_all(gpu_device_ids="0,1,2,3", kv_cache_free_gpu_mem_fraction="0.6")


@pytest.mark.parametrize(
    ("target", "draft", "said"),
    [
        (set_all(participant_ids="5,6,7,8"), set_all(), "tensorrt_llm_draft/config.pbtxt: participant_ids is absent"),
        (set_all(), set_all(participant_ids="1,2,3,4"), "tensorrt_llm/config.pbtxt: participant_ids is absent"),
        (set_all(participant_ids="4,5"), set_all(participant_ids="3,4"), "participant_ids is 4, one of tensorrt_llm"),
        (set_all(participant_ids="0,1"), set_all(participant_ids="2,3"), "participant_ids is 0, the orchestrator's"),
        (set_all(participant_ids="1;2"), set_all(participant_ids="3"), "participant_ids is of 2 instances, expected 1"),
        (set_all(gpu_device_ids="0;1"), set_all(), "gpu_device_ids is of 2 instances, expected 1"),
        (
            set_all(participant_ids="1,2", gpu_device_ids="0"),
            set_all(participant_ids="3,4"),
            "gpu_device_ids is 1 GPUs, expected 2, one a rank",
        ),
        (ONE_SHARE, ONE_SHARE, "kv_cache_free_gpu_mem_fraction is 0.6 + 0.6 with the target's"),
        (ONE_SHARE, set_parameter("kv_cache_free_gpu_mem_fraction", "0.5"), "is 0.6 + 0.5 with the target's"),
        (set_parameter(FAST, "true"), set_all(), f"tensorrt_llm_draft/config.pbtxt: {FAST} is not on"),
        (set_parameter(FAST, "1"), set_parameter(FAST, "1"), "participant_ids is absent, expected ranks"),
    ],
)
def test_engines_have_ranks_gpus_and_shares_of_their_own(
    speculating: Path, target: Change, draft: Change, said: str
) -> None:
    edit(speculating, "tensorrt_llm", target)
    edit(speculating, "tensorrt_llm_draft", draft)
    assert said in refusal(speculating)


def test_engines_that_share_no_gpu_may_each_take_most_of_it(speculating: Path) -> None:
    share = "0.9"
    edit(speculating, "tensorrt_llm", set_all(gpu_device_ids="0,1", kv_cache_free_gpu_mem_fraction=share))
    edit(speculating, "tensorrt_llm_draft", set_all(gpu_device_ids="2", kv_cache_free_gpu_mem_fraction=share))
    verify_repository(speculating)


@pytest.mark.parametrize(("gpus", "is_refused"), [(None, True), ("0;0", True), ("0;1", False)])
def test_instances_on_one_gpu_share_its_memory(root: Path, tmp_path: Path, gpus: str | None, is_refused: bool) -> None:
    repository = a_repository(tmp_path, a_deployment(root, "llama-3.1-8b-fp8-h100"))

    def two_instances(config: Any) -> None:
        config.instance_group[0].count = 2
        if gpus is not None:
            config.parameters["gpu_device_ids"].string_value = gpus

    edit(repository, "tensorrt_llm", two_instances)
    if is_refused:
        assert "0.9 + 0.9 for the instances of one GPU, expected a sum below 1" in refusal(repository)
    else:
        verify_repository(repository)


def test_speculation_in_the_streaming_profile_is_refused(speculating: Path) -> None:
    for model in ("tensorrt_llm", "tensorrt_llm_draft", "tensorrt_llm_bls"):
        edit(speculating, model, lambda config: setattr(config.model_transaction_policy, "decoupled", True))
    assert "decoupled is true, expected false to speculate" in refusal(speculating)


def test_text_that_is_not_a_configuration_is_refused_with_its_line(repository: Path) -> None:
    path = repository / "ensemble" / "config.pbtxt"
    path.write_text('name: "ensemble"\nmax_batch_size: ${triton_max_batch_size}\n')
    assert f"{path}:2:" in refusal(repository)


def test_a_missing_model_is_named(repository: Path) -> None:
    shutil.rmtree(repository / "postprocessing")
    assert "the model postprocessing is missing" in refusal(repository)


def test_an_unknown_model_is_named(repository: Path) -> None:
    (repository / "tensorrt_llm_dratf").mkdir()
    assert "tensorrt_llm_dratf is not a model of the contract" in refusal(repository)


def test_a_missing_configuration_is_named(repository: Path) -> None:
    (repository / "ensemble" / "config.pbtxt").unlink()
    assert str(repository / "ensemble" / "config.pbtxt") in refusal(repository)


def test_a_missing_version_directory_is_named(repository: Path) -> None:
    shutil.rmtree(repository / "ensemble" / "1")
    assert f"{repository / 'ensemble' / '1'}: no such directory" in refusal(repository)


def test_a_missing_entry_point_is_named(repository: Path) -> None:
    (repository / "tensorrt_llm" / "1" / "model.py").unlink()
    assert "model.py: no such file" in refusal(repository)


def test_a_missing_repository_is_named(tmp_path: Path) -> None:
    assert f"{tmp_path / 'absent'}: no model repository" in refusal(tmp_path / "absent")


def test_files_beside_the_models_do_not_count(repository: Path) -> None:
    (repository / "manifest.json").write_text("{}")
    verify_repository(repository)
