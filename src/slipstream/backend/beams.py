"""Beam search: what a request may ask of it, and what the engine finds.

As in TensorRT-LLM (`llmRequest.cpp`, `beamSearchKernels`), one response holds the beams, best first; `len_penalty` is
the exponent of the length that a beam's log-probability is divided by, 0 by default; `early_stopping`, the default,
ends the search with as many complete beams as it is wide; `num_return_sequences` leaves the worst beams out, and
`runtime_top_k`, `runtime_top_p` and `seed` mean nothing. Where this engine differs:

- A stream gets one response, when the search is over. There it gets all beams anew with every token, since earlier
  tokens of a beam may still change; the last of those responses holds what this one does.
- OpenVINO's search leaves out temperature, penalties, `min_tokens`, grammars and so `bad_words_list`: such a request
  is refused. Log-probs are those of the model.
"""

from __future__ import annotations

from dataclasses import dataclass

from slipstream.backend.guide import GUIDE, TYPE
from slipstream.backend.tensors import RequestRefusedError, Tensors, flag, integer, is_given, number

# Input, and its values that ask for nothing.
_NEUTRAL = (
    ("temperature", (1.0,)),
    ("repetition_penalty", (1.0,)),
    ("presence_penalty", (0.0,)),
    ("frequency_penalty", (0.0,)),
    ("min_tokens", (0.0,)),
)
_NOT_GIVEN = ("bad_words_list", TYPE, GUIDE)
_DRAFT = "draft_input_ids"
_FLAGS = ("return_context_logits", "return_generation_logits")


@dataclass(frozen=True, slots=True, kw_only=True)
class Beams:
    """How beams are searched."""

    width: int  # above 1
    num_returned: int  # the best, at most `width`
    length_penalty: float
    ends_early: bool  # with `width` complete beams; otherwise when a better one has become unlikely


@dataclass(frozen=True, slots=True)
class Beam:
    """One sequence that the search found."""

    ids: list[int]
    log_probs: list[float]  # one each id, or empty
    cumulative_log_prob: float  # with the token that ends the text, which `ids` leave out


def read_beams(tensors: Tensors, *, max_beam_width: int) -> Beams | None:
    """The beam search that a request asks for, none for one beam."""
    width = integer(tensors, "beam_width")
    if width is None or width == 1:
        return None
    if not 1 <= width <= max_beam_width:
        raise RequestRefusedError(f"beam_width is {width}, it must be from 1 to {max_beam_width}, the max_beam_width")
    num_returned = integer(tensors, "num_return_sequences") or width
    if num_returned > width:
        raise RequestRefusedError(
            f"num_return_sequences is {num_returned}, beam_width is {width}: there are no more beams to return"
        )
    _refuse_what_excludes(tensors, width)
    return Beams(
        width=width,
        num_returned=num_returned,
        length_penalty=number(tensors, "len_penalty") or 0.0,
        ends_early=flag(tensors, "early_stopping") is not False,
    )


def _refuse_what_excludes(tensors: Tensors, width: int) -> None:
    found = f"beam_width is {width}"
    for name, neutral in _NEUTRAL:
        value = number(tensors, name)
        if value is not None and value not in neutral:
            raise RequestRefusedError(
                f"{found} and {name} is {value:g}: the engine's beam search leaves it out; leave one of them out"
            )
    if is_given(tensors, _DRAFT):
        raise RequestRefusedError(f"{found} and {_DRAFT} is given: a draft is of one sequence; leave one of them out")
    for name in _NOT_GIVEN:
        if is_given(tensors, name) and any(value not in (b"", "") for value in tensors[name].reshape(-1).tolist()):
            raise RequestRefusedError(
                f"{found} and {name} is given: the engine's beam search follows no grammar; leave one of them out"
            )
    for name in _FLAGS:
        if flag(tensors, name):
            raise RequestRefusedError(f"{found} and {name} is true: logits are given of one output; leave one out")
