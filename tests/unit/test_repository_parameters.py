"""Parameters: typed values become strings that the backend can parse, everything else is refused."""

from __future__ import annotations

import pytest

from slipstream.errors import SlipstreamError
from slipstream.repository.contract import contract
from slipstream.repository.parameters import EMBEDDED_PARAMETERS, Value, as_strings, expected_instead


def test_typed_values_become_what_the_backend_parses() -> None:
    values: dict[str, Value] = {
        "enable_kv_cache_reuse": True,
        "kv_cache_free_gpu_mem_fraction": 0.8,
        "max_beam_width": 1,
        "gpt_model_path": "/models/a/engine",
        "guided_decoding_backend": "",
    }
    assert as_strings("tensorrt_llm", "tensorrtllm", values) == {
        "enable_kv_cache_reuse": "true",
        "kv_cache_free_gpu_mem_fraction": "0.8",
        "max_beam_width": "1",
        "gpt_model_path": "/models/a/engine",
        "guided_decoding_backend": "",
    }


def test_an_unset_parameter_is_left_out() -> None:
    assert as_strings("tensorrt_llm", "tensorrtllm", {"lora_prefetch_dir": None}) == {}


def test_an_unknown_parameter_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(SlipstreamError, match=r"kv_cache_free_gpu_memory_fraction.*did you mean kv_cache_free_gpu_mem"):
        as_strings("tensorrt_llm", "tensorrtllm", {"kv_cache_free_gpu_memory_fraction": 0.9})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_beam_width", "1"),
        ("max_beam_width", True),
        ("max_beam_width", 1.5),
        ("enable_kv_cache_reuse", 1),
        ("enable_kv_cache_reuse", "true"),
        ("kv_cache_free_gpu_mem_fraction", "a lot"),
        ("kv_cache_free_gpu_mem_fraction", float("nan")),
        ("kv_cache_host_memory_bytes", -1),
        ("gpt_model_path", "engine"),
        ("gpt_model_path", ""),
        ("gpt_model_path", "/models/${engine_dir}"),
        ("gpt_model_path", "/models/a\nb"),
        ("gpt_model_type", ""),
        ("gpt_model_type", "inflight"),
        ("batch_scheduler_policy", "max_utilisation"),
        ("FORCE_CPU_ONLY_INPUT_TENSORS", "yes"),
        ("max_attention_window_size", "4096;4096"),
        ("gpu_device_ids", "0,1;"),
        ("medusa_choices", "0,0"),
        ("max_beam_width", 0),
        ("max_tokens_in_paged_kv_cache", 2**31),  # stoi throws, and the backend takes the key for unset
        ("max_attention_window_size", "4096,0"),
        ("max_attention_window_size", "4096,2147483648"),
        ("kv_cache_free_gpu_mem_fraction", 0),
        ("kv_cache_free_gpu_mem_fraction", 1.0),
        ("kv_cache_free_gpu_mem_fraction", 1e-39),  # stof throws
        ("gpu_weights_percent", 1.5),
        ("lookahead_ngram_size", 0),
        ("cancellation_check_period_ms", 0),
    ],
)
def test_a_value_that_the_backend_would_not_parse_is_refused(name: str, value: Value) -> None:
    with pytest.raises(SlipstreamError, match=f"tensorrt_llm: parameter {name} is"):
        as_strings("tensorrt_llm", "tensorrtllm", {name: value})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("max_attention_window_size", "4096,32768"),
        ("gpu_device_ids", "0,1;2,3"),
        ("medusa_choices", "{0},{0,0},{1}"),
        ("exclude_input_in_output", "FALSE"),
        ("xgrammar_tokenizer_info_path", ""),
        ("max_tokens_in_paged_kv_cache", "2147483647"),
        ("kv_cache_host_memory_bytes", "17179869184"),
        ("gpu_weights_percent", "0"),
        ("gpu_weights_percent", "1.0"),
        ("lookahead_verification_set_size", "0"),
    ],
)
def test_what_the_backend_parses_is_accepted(name: str, text: str) -> None:
    assert expected_instead(contract()["tensorrt_llm"].parameters[name], text) is None


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("kv_cache_free_gpu_mem_fraction", "1", "a number from 0 to 1, both excluded"),
        ("gpu_weights_percent", "-0.1", "a number from 0 to 1"),
        ("max_tokens_in_paged_kv_cache", "2147483648", "a number from 1 to 2147483647"),
    ],
)
def test_a_number_outside_its_range_is_refused_with_the_range(name: str, text: str, said: str) -> None:
    assert expected_instead(contract()["tensorrt_llm"].parameters[name], text) == said


def test_the_embedded_engines_own_parameters_need_its_backend() -> None:
    assert as_strings("tensorrt_llm", "python", {"slipstream_kv_cache_gib": 2}) == {"slipstream_kv_cache_gib": "2"}
    with pytest.raises(SlipstreamError, match="slipstream_kv_cache_gib"):
        as_strings("tensorrt_llm", "tensorrtllm", {"slipstream_kv_cache_gib": 2})


def test_the_embedded_engines_own_parameters_never_shadow_the_contract() -> None:
    names = {parameter.name for parameter in EMBEDDED_PARAMETERS}
    assert all(name.startswith("slipstream_") for name in names)
    assert not names & set(contract()["tensorrt_llm"].parameters)
