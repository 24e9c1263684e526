"""What a request to `tensorrt_llm_bls` asks of draft-target speculation, and what cannot be asked together with it.

`num_draft_tokens` above 0 selects speculation, as in TensorRT-LLM's model of the same name (1.2.1,
`triton_backend/all_models/inflight_batcher_llm/tensorrt_llm_bls/1/lib/decode.py`). Its limits hold here too, so that
a client of one works with the other: one prompt a request, `stream` sent and false, no context logits, no images.
It leaves these out or answers them wrongly without a word, here they are refused:

- beams and several sequences: the target verifies one draft a request;
- guided decoding: every step is a new request to the engines, and a grammar begins anew with each;
- prompt embeddings: the table is the target's, a draft of another hidden size cannot read it;
- generation logits: they would be those of the last step.

`exclude_input_in_output` is honoured: the engines are always told to echo, and the prompt is cut off here. Where the
request does not say, the prompt stays in the text, as the parameter of this profile's engines has it.
"""

from __future__ import annotations

from dataclasses import dataclass

from slipstream.backend.tensors import RequestRefusedError, Tensors, flag, integer, is_given

_MEND_DRAFT = "give the deployment an engine.draft and render again, or leave it out"

# Input, the largest value that asks for nothing, and why more cannot be had.
_ONE_SEQUENCE = (
    ("beam_width", 1, "speculation has no beams"),
    ("num_return_sequences", 1, "speculation writes one sequence"),
)
_NOT_SERVED = (
    ("return_context_logits", "the prompt's logits are not kept while speculating"),
    ("return_generation_logits", "logits are those of single steps while speculating"),
)
_NOT_GIVEN = (
    ("prompt_embedding_table", "the draft model cannot read the target's prompt embeddings"),
    ("guided_decoding_guide_type", "a grammar would begin anew at every step of speculation"),
    ("guided_decoding_guide", "a grammar would begin anew at every step of speculation"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drafting:
    """How one request speculates."""

    num_draft_tokens: int  # the most that the target verifies in one step
    use_draft_logits: bool  # accept by the probabilities of both models instead of equal tokens
    echo_prompt: bool


def read_drafting(tensors: Tensors, *, has_draft_model: bool) -> Drafting | None:
    """The speculation that the request asks for, none if it asks for a plain generation."""
    num_draft_tokens = integer(tensors, "num_draft_tokens") or 0
    use_draft_logits = bool(flag(tensors, "use_draft_logits"))
    if not has_draft_model:
        for name, is_asked in (("num_draft_tokens", num_draft_tokens > 0), ("use_draft_logits", use_draft_logits)):
            if is_asked:
                raise RequestRefusedError(
                    f"{name}: draft-target speculation is not available on this engine, the repository has no draft"
                    f" model: {_MEND_DRAFT}"
                )
    if num_draft_tokens <= 0:
        return None
    _refuse_what_excludes(tensors, f"num_draft_tokens is {num_draft_tokens}")
    return Drafting(
        num_draft_tokens=num_draft_tokens,
        use_draft_logits=use_draft_logits,
        echo_prompt=not flag(tensors, "exclude_input_in_output"),
    )


def _refuse_what_excludes(tensors: Tensors, found: str) -> None:
    stream = flag(tensors, "stream")
    if stream is not False:
        word = "missing" if stream is None else "true"
        raise RequestRefusedError(f"{found} and stream is {word}: speculation gives one response; send stream=false")
    for name, most, reason in _ONE_SEQUENCE:
        value = integer(tensors, name)
        if value is not None and value > most:
            raise RequestRefusedError(f"{found} and {name} is {value}: {reason}, the limit is {most}")
    for name, reason in _NOT_SERVED:
        if flag(tensors, name):
            raise RequestRefusedError(f"{found} and {name} is true: {reason}; leave one of them out")
    for name, reason in _NOT_GIVEN:
        if is_given(tensors, name):
            raise RequestRefusedError(f"{found} and {name} is given: {reason}; leave one of them out")
