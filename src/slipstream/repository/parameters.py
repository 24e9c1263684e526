"""Model parameters: typed values in, the strings that Triton hands to a backend out.

A backend that cannot parse a number or a boolean takes it for unset without a word, and a plain string as it is.
So nothing is written that the contract does not know or that the backend could not parse.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from slipstream.errors import SlipstreamError, SpecError
from slipstream.repository.contract import Kind, Parameter, contract, contract_name
from slipstream.spec_file import did_you_mean

Value = str | int | float | bool | None  # None: unset, the key is left out

# What the embedded engine needs and the C++ backend reads from its compiled engine, or has no word for.
EMBEDDED_PARAMETERS: tuple[Parameter, ...] = (
    Parameter(
        name="slipstream_execution",
        kind="str",
        allowed=("performance", "accuracy"),
        required=True,
        meaning="`accuracy`: float32 without dynamic quantization",
    ),
    Parameter(name="slipstream_kv_cache_gib", kind="uint", required=True, meaning="memory for the KV cache, in GiB"),
    Parameter(name="slipstream_max_batch_size", kind="uint", required=True, meaning="requests in one iteration"),
    Parameter(name="slipstream_max_queue_size", kind="uint", default=0, meaning="requests that may wait; 0: no limit"),
    Parameter(name="slipstream_max_num_tokens", kind="uint", required=True, meaning="tokens in one iteration"),
    Parameter(name="slipstream_max_seq_len", kind="uint", required=True, meaning="prompt and output of one request"),
    Parameter(name="slipstream_max_input_len", kind="uint", required=True, meaning="prompt tokens of one request"),
    Parameter(
        name="slipstream_stream_interval",
        kind="uint",
        required=True,
        minimum=1,
        maximum=64,
        meaning="tokens in a streamed response, or the most of them; the first comes at once",
    ),
    Parameter(
        name="slipstream_stream_interval_adapts",
        kind="bool",
        default="false",
        meaning="one token for every 8 streams that a step brings tokens for, up to the most",
    ),
    Parameter(
        name="slipstream_speculation_mode",
        kind="str",
        allowed=("ngram", "draft_target"),
        meaning="where draft tokens come from; absent: the engine does not speculate",
    ),
    Parameter(
        name="slipstream_speculation",
        kind="str",
        allowed=("auto", "on", "off"),
        meaning="for a request that does not say; `auto`: while it is measured to be faster",
    ),
    Parameter(
        name="slipstream_speculation_draft_len",
        kind="uint",
        minimum=1,
        maximum=256,
        meaning="draft tokens that are verified in one step",
    ),
    Parameter(name="slipstream_speculation_engine_dir", kind="path", meaning="the engine of draft_target"),
    Parameter(
        name="slipstream_max_draft_len",
        kind="uint",
        minimum=1,
        maximum=64,
        meaning="draft tokens that one request may bring; absent without a draft model: as many as fit the context",
    ),
    Parameter(
        name="slipstream_prefill_chunk_tokens",
        kind="uint",
        required=True,
        minimum=32,
        meaning="tokens of prompts in one iteration, with enable_chunked_context",
    ),
    Parameter(
        name="slipstream_request_timeout_s",
        kind="uint",
        required=True,
        meaning="time for a request, waiting and running; 0: no limit",
    ),
    Parameter(
        name="slipstream_step_timeout_s",
        kind="uint",
        required=True,
        minimum=1,
        meaning="silence after which the engine's process is replaced",
    ),
)

# Our BLS tokenizes in process, which saves two hops a response: it reads what its neighbours read, under their names.
_BLS_PARAMETERS: tuple[tuple[str, str], ...] = (
    ("preprocessing", "tokenizer_dir"),
    ("preprocessing", "add_special_tokens"),
    ("postprocessing", "skip_special_tokens"),
)

# The backend reads whole numbers with stoi, which takes a larger one for unset.
_INT32_MAX = 2**31 - 1
_FLOAT32_MIN, _FLOAT32_MAX = 2.0**-126, 2.0**128 - 2.0**104
_INT32: tuple[Kind, ...] = ("int", "int_csv", "instance_csv")

# Speculation ends a text at the end of the context, as the engine does: its BLS loop is told where that is.
_SPECULATION_LIMIT = Parameter(
    name="slipstream_max_seq_len", kind="uint", minimum=2, meaning="the engine's max_seq_len"
)

_LINK = Parameter(
    name="slipstream_link", kind="bool", meaning="ask the embedded engine's model over a socket, not through Triton"
)

_PATTERNS: Mapping[Kind, tuple[str, str]] = {
    "bool": (r"true|True|TRUE|1|false|False|FALSE|0", "true or false"),
    "int": (r"-?[0-9]+", "a whole number"),
    "uint": (r"[0-9]+", "a whole number, zero or more"),
    "path": (r"/.*", "an absolute path"),
    "str": (r".+", "some text"),
    "int_csv": (r"[0-9]+(,[0-9]+)*", "whole numbers separated by commas"),
    "instance_csv": (
        r"[0-9]+(,[0-9]+)*(;[0-9]+(,[0-9]+)*)*",
        "whole numbers separated by commas, model instances by semicolons",
    ),
    "choices": (r"\{[0-9]+(,[0-9]+)*\}(,\{[0-9]+(,[0-9]+)*\})*", "a tree such as {0},{0,0},{1}"),
}


def known_parameters(model_name: str, backend: str) -> Mapping[str, Parameter]:
    """Every parameter that `model_name` may have when `backend` fills the slot."""
    known = contract()[contract_name(model_name)].parameters
    if contract_name(model_name) == "tensorrt_llm" and backend == "python":
        return {**known, **{parameter.name: parameter for parameter in EMBEDDED_PARAMETERS}}
    if model_name == "tensorrt_llm_bls":
        neighbours = {name: contract()[model].parameters[name] for model, name in _BLS_PARAMETERS}
        return {**known, **neighbours, _SPECULATION_LIMIT.name: _SPECULATION_LIMIT, _LINK.name: _LINK}
    return known


def as_strings(model_name: str, backend: str, values: Mapping[str, Value]) -> dict[str, str]:
    """The parameters of a model as Triton takes them, without those that are None.

    Raises SlipstreamError for a name that the contract does not have, SpecError for a value of the wrong type or range.
    """
    known = known_parameters(model_name, backend)
    strings: dict[str, str] = {}
    for name, value in values.items():
        if name not in known:
            raise SlipstreamError(
                f"{model_name}: no parameter is called {name}{did_you_mean(name, known)}",
                mend="use a name of the contract in slipstream/repository/contract",
            )
        if value is not None:
            strings[name] = _as_string(model_name, known[name], value)
    return strings


def expected_instead(parameter: Parameter, text: str) -> str | None:
    """What `parameter` takes, if `text` is not that; None if all is well."""
    if not text and parameter.may_be_empty:
        return None
    if parameter.fixed is not None:
        return None if text == parameter.fixed else repr(parameter.fixed)
    if parameter.allowed:
        return None if text in parameter.allowed else f"one of {', '.join(parameter.allowed)}"
    if "${" in text:
        return "a value; this is an unfilled placeholder"
    if parameter.kind == "float":
        words = None if _is_float32(text) else "a number"
    else:
        pattern, form = _PATTERNS[parameter.kind]
        words = None if re.fullmatch(pattern, text) else form
    return words or _expected_range(parameter, text)


def _expected_range(parameter: Parameter, text: str) -> str | None:
    """The range of `parameter`, if a number in `text`, which has its form, is outside."""
    if parameter.kind not in {"int", "uint", "float", "int_csv", "instance_csv"}:
        return None
    maximum = parameter.maximum
    if maximum is None and parameter.kind in _INT32:
        maximum = _INT32_MAX
    if all(_is_within(float(number), parameter, maximum) for number in re.split("[,;]", text)):
        return None
    low, high = (f"{limit:.10g}" if limit is not None else "any" for limit in (parameter.minimum, maximum))
    return f"a number from {low} to {high}" + (", both excluded" if parameter.exclusive else "")


def _is_within(number: float, parameter: Parameter, maximum: float | None) -> bool:
    low = parameter.minimum if parameter.minimum is not None else -math.inf
    high = maximum if maximum is not None else math.inf
    return low < number < high if parameter.exclusive else low <= number <= high


def _as_string(model_name: str, parameter: Parameter, value: str | int | float | bool) -> str:
    text = ("true" if value else "false") if isinstance(value, bool) else str(value)
    expected = expected_instead(parameter, text) or _expected_type(parameter.kind, value)
    if expected is None:
        return text
    raise SpecError(
        f"{model_name}: parameter {parameter.name} is {value!r}, expected {expected}",
        mend="correct the setting of the deployment that it comes from",
    )


def _expected_type(kind: Kind, value: str | int | float | bool) -> str | None:
    """The Python type that `kind` wants, if `value` has another: True is not 1, and "8" is not 8."""
    wanted: type | tuple[type, ...]
    if kind == "bool":
        wanted = bool
    elif kind in ("int", "uint"):
        wanted = int
    elif kind == "float":
        wanted = (float, int)
    else:
        wanted = str
    if isinstance(value, wanted) and (kind == "bool" or not isinstance(value, bool)):
        return None
    return f"a value of type {kind}"


def _is_float32(text: str) -> bool:
    """The backend reads numbers with stof, which takes one that is too large or too small for unset."""
    try:
        magnitude = abs(float(text))
    except ValueError:
        return False
    return magnitude == 0 or _FLOAT32_MIN <= magnitude <= _FLOAT32_MAX
