"""One request to the LLM API model, read from its tensors and checked before the engine sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from slipstream.backend.llmapi_settings import LlmApiSettings
from slipstream.backend.tensors import RequestRefusedError, Tensors, flag, integer, is_given, number, text

_PREFIX = "sampling_param_"
_PENALTIES = ("frequency_penalty", "presence_penalty")


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmApiRequest:
    """A prompt, what `SamplingParams` is made of, and what the response holds."""

    request_id: str  # Triton's, often empty
    prompt: str
    streaming: bool
    sampling: dict[str, Any]  # arguments of SamplingParams
    stops: tuple[str, ...]
    echo_prompt: bool
    accumulates: bool
    finish_reason: bool
    stop_reason: bool
    cumulative_logprob: bool


def read_llmapi_request(tensors: Tensors, *, request_id: str, settings: LlmApiSettings) -> LlmApiRequest:
    """The generation that `tensors` ask for; `RequestRefusedError` says what cannot be done."""
    streaming = bool(flag(tensors, "streaming"))
    if streaming and not settings.decoupled:
        raise RequestRefusedError("streaming is true, but the model is not decoupled: it gives one response a request")
    exclude = flag(tensors, f"{_PREFIX}exclude_input_from_output")
    if exclude is None:
        exclude = settings.exclude_input_in_output
    wants_logprob = bool(flag(tensors, "return_cumulative_logprob"))
    stops = _stops(tensors)
    return LlmApiRequest(
        request_id=request_id,
        prompt=_prompt(tensors),
        streaming=streaming,
        sampling=_sampling(tensors, settings, stops, streaming=streaming, wants_logprob=wants_logprob),
        stops=stops,
        echo_prompt=not streaming and not exclude,
        accumulates=streaming and settings.accumulate_tokens,
        finish_reason=bool(flag(tensors, "return_finish_reason")),
        stop_reason=bool(flag(tensors, "return_stop_reason")),
        cumulative_logprob=wants_logprob,
    )


def _prompt(tensors: Tensors) -> str:
    if not is_given(tensors, "text_input"):
        raise RequestRefusedError("text_input is missing or empty")
    prompts = tensors["text_input"].reshape(-1)
    if prompts.size != 1:
        raise RequestRefusedError(f"text_input holds {prompts.size} prompts, the limit is 1: send them one by one")
    prompt = text(prompts[0], "text_input")
    if not prompt:
        raise RequestRefusedError("text_input is empty: a prompt needs at least one token")
    return prompt


def _stops(tensors: Tensors) -> tuple[str, ...]:
    name = f"{_PREFIX}stop"
    if not is_given(tensors, name):
        return ()
    stops = tuple(text(value, name) for value in tensors[name].reshape(-1))
    if "" in stops:
        raise RequestRefusedError(f"{name} holds an empty string: every stop needs a character")
    return stops


def _sampling(
    tensors: Tensors, settings: LlmApiSettings, stops: tuple[str, ...], *, streaming: bool, wants_logprob: bool
) -> dict[str, Any]:
    """The arguments that the request gives; what it does not give is left to `SamplingParams`' own defaults."""
    given: dict[str, Any] = {
        "max_tokens": _at_least(tensors, "max_tokens", 1),
        "temperature": _from_zero(tensors, "temperature"),
        "top_k": _at_least(tensors, "top_k", 0),
        "top_p": _top_p(tensors),
        "seed": integer(tensors, f"{_PREFIX}seed"),
        "best_of": _best_of(tensors, streaming=streaming),
        **{name: _penalty(tensors, name) for name in _PENALTIES},
        "return_perf_metrics": flag(tensors, f"{_PREFIX}return_perf_metrics") or None,
        "stop": list(stops) or None,
        "logprobs": 1 if wants_logprob else None,  # without it the engine adds nothing up
    }
    return {
        "add_special_tokens": settings.add_special_tokens,
        "skip_special_tokens": settings.skip_special_tokens,
        **{name: value for name, value in given.items() if value is not None},
    }


def _at_least(tensors: Tensors, name: str, least: int) -> int | None:
    value = integer(tensors, f"{_PREFIX}{name}")
    if value is not None and value < least:
        raise RequestRefusedError(f"{_PREFIX}{name} is {value}, it must be {least} or more")
    return value


def _from_zero(tensors: Tensors, name: str) -> float | None:
    value = number(tensors, f"{_PREFIX}{name}")
    if value is not None and value < 0:
        raise RequestRefusedError(f"{_PREFIX}{name} is {value:g}, it must be 0 (greedy) or more")
    return value


def _top_p(tensors: Tensors) -> float | None:
    value = number(tensors, f"{_PREFIX}top_p")
    if value is not None and not 0 <= value <= 1:
        raise RequestRefusedError(f"{_PREFIX}top_p is {value:g}, it must be from 0 to 1")
    return value


def _best_of(tensors: Tensors, *, streaming: bool) -> int | None:
    value = _at_least(tensors, "best_of", 1)
    if value is not None and value > 1 and streaming:
        raise RequestRefusedError(f"{_PREFIX}best_of is {value}, a stream needs 1: the best is known at the end only")
    return value


def _penalty(tensors: Tensors, name: str) -> float | None:
    value = number(tensors, f"{_PREFIX}{name}")
    if value is not None and not -2 <= value <= 2:
        raise RequestRefusedError(f"{_PREFIX}{name} is {value:g}, it must be from -2 to 2")
    return value
