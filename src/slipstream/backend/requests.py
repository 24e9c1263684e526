"""A request to the engine: tensors in, typed values out.

Meanings are those of TensorRT-LLM's C++ backend. Decoding is greedy unless `runtime_top_k` is above 1 or
`runtime_top_p` is above 0. A prompt longer than `max_input_len` is refused; an output that would pass `max_seq_len`
is shortened to the room that is left. Without `end_id` (or with -1) no token ends the output. `pad_id` is accepted and
not used: responses hold no padding, each is as long as its `sequence_length`.

Where this engine differs from TensorRT-LLM's (its `penaltyKernels.cu`):

- `presence_penalty` and `frequency_penalty` count the tokens of the output alone, there the prompt's as well.
  `repetition_penalty` covers prompt and output on both.
- The penalties act on the model's logits and `temperature` on what they leave, there the other way round.
- The end token of a beam counts in its `cum_log_probs`, as there; that of a single sequence does not.
- Log-probs are the model's own, over the whole vocabulary, before penalties, temperature and bad words.

A seed makes sampling repeatable as long as the logits are. In the performance mode these depend, in their last digits,
on how many tokens of the prompt are computed and how many are taken from KV blocks of an earlier request, so a draw
that falls between two tokens can go the other way. In the accuracy mode, or with `enable_kv_cache_reuse` off, one
request after the other gives the same text every time. Without a seed it is 0, as there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from slipstream.backend.beams import Beams, read_beams
from slipstream.backend.contract import refuse_unserved
from slipstream.backend.deadlines import Deadline
from slipstream.backend.draft import DRAFT_IDS, read_draft, refuse_with_draft
from slipstream.backend.draft_acceptance import Acceptance, read_acceptance
from slipstream.backend.guide import GUIDE, TYPE, Guide, read_guide
from slipstream.backend.logits import LogitsWish, read_logits_wish
from slipstream.backend.parameters import Limits
from slipstream.backend.speculation import Traits, Wish, settle_wish
from slipstream.backend.tensors import RequestRefusedError, Tensors, flag, integer, is_given, number
from slipstream.backend.trailer import CALL, read_mark
from slipstream.backend.words import Word, unpack


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Draw from the most probable tokens instead of taking the first."""

    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Penalties:
    """What repetition costs a token."""

    repetition: float = 1.0
    presence: float = 0.0
    frequency: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRules:
    """When the output ends, what it must be, and what it must not hold."""

    max_new_tokens: int
    min_new_tokens: int
    end_id: int | None  # not part of the output
    stop_words: tuple[Word, ...]  # part of the output
    bad_words: tuple[Word, ...]
    guide: Guide | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputWishes:
    """What the responses hold."""

    streaming: bool
    echo_prompt: bool
    log_probs: bool
    num_input_tokens: bool
    num_output_tokens: bool
    perf_metrics: bool
    trailer: bool  # the request came through the ensemble or the BLS model
    is_bls_call: bool  # an error behind other responses would be lost, see trailer.py


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which of a request's generations this is; none where there is one."""

    batch_index: int | None = None
    sequence_index: int | None = None


ALONE = Place()


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One prompt to continue."""

    request_id: str  # Triton's, often empty
    prompt_ids: list[int]
    sampling: Sampling | None  # None: greedy
    penalties: Penalties
    stop: StopRules
    wishes: OutputWishes
    draft_ids: tuple[int, ...] = ()  # the output ends where it parts from them, see draft.py
    acceptance: Acceptance | None = None  # none: draft tokens are accepted where they are equal
    logits: LogitsWish | None = None
    speculation: Wish = "off"
    deadline: Deadline | None = None
    beams: Beams | None = None  # none: one sequence is written token by token
    place: Place = ALONE


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelProfile:
    """What the model's configuration says about every request."""

    limits: Limits
    decoupled: bool
    exclude_input_in_output: bool
    bans_words: bool  # the engine directory holds the tokenizer that grammars need
    speculation: Wish | None = None  # of a request that does not say; none: the engine cannot speculate
    request_timeout_us: int = 0  # 0: no limit


def read_request(
    tensors: Tensors, *, request_id: str, profile: ModelProfile, speculation: str | None = None, timeout_us: int = 0
) -> GenerationRequest:
    """The generation that `tensors`, of one row, and the parameters `speculation` and `timeout` ask for.

    `RequestRefusedError` says what cannot be done.
    """
    refuse_unserved(tensors)
    beams = read_beams(tensors, max_beam_width=profile.limits.max_beam_width)
    for name in ("bad_words_list", TYPE, GUIDE):
        if is_given(tensors, name) and not profile.bans_words:
            raise RequestRefusedError(f"{name}: the engine was built without a tokenizer; leave it out")
    prompt_ids = _prompt(tensors, profile.limits)
    draft_ids = _draft(tensors, profile.limits)
    stop = _stop_rules(tensors, profile.limits, prompt_tokens=len(prompt_ids), draft_tokens=len(draft_ids))
    sampling, vocab_size = None if beams else _sampling(tensors), profile.limits.vocab_size
    request = GenerationRequest(
        request_id=request_id,
        prompt_ids=prompt_ids,
        sampling=sampling,
        penalties=_penalties(tensors),
        stop=stop,
        wishes=_wishes(tensors, profile),
        draft_ids=draft_ids,
        acceptance=read_acceptance(tensors, draft_ids=draft_ids, vocab_size=vocab_size, is_greedy=sampling is None),
        logits=read_logits_wish(
            tensors, prompt_tokens=len(prompt_ids), max_new_tokens=stop.max_new_tokens, vocab_size=vocab_size
        ),
        deadline=Deadline.of(timeout_us=timeout_us, default_us=profile.request_timeout_us),
        beams=beams,
    )
    return replace(request, speculation=_speculation(request, speculation, profile))


def _speculation(request: GenerationRequest, asked: str | None, profile: ModelProfile) -> Wish:
    penalties, stop = request.penalties, request.stop
    traits = Traits(
        is_greedy=request.sampling is None,
        has_beams=request.beams is not None,
        has_draft=bool(request.draft_ids),
        has_least_length=stop.min_new_tokens > 0 and stop.end_id is not None,
        has_grammar=bool(stop.guide or stop.bad_words),
        counts_output=bool(penalties.presence or penalties.frequency),
    )
    return settle_wish(asked, profile.speculation, traits)


def _prompt(tensors: Tensors, limits: Limits) -> list[int]:
    if not is_given(tensors, "input_ids"):
        raise RequestRefusedError("input_ids is missing or empty: a prompt needs at least one token")
    ids = tensors["input_ids"]
    length = integer(tensors, "input_lengths")
    if length is None or not 1 <= length <= ids.size:
        raise RequestRefusedError(f"input_lengths is {length}, input_ids holds {ids.size} tokens")
    if length > limits.max_input_len:
        raise RequestRefusedError(f"the prompt has {length} tokens, the limit max_input_len is {limits.max_input_len}")
    if length >= limits.max_seq_len:
        raise RequestRefusedError(
            f"the prompt has {length} tokens, max_seq_len is {limits.max_seq_len}: no room for output is left"
        )
    prompt: list[int] = ids.reshape(-1)[:length].tolist()
    _check_ids("input_ids", prompt, limits)
    return prompt


def _draft(tensors: Tensors, limits: Limits) -> tuple[int, ...]:
    draft_ids = read_draft(tensors, most=limits.max_draft_len)
    _check_ids(DRAFT_IDS, draft_ids, limits)
    if draft_ids and read_mark(tensors) == CALL:
        refuse_with_draft(tensors)
    return draft_ids


def _check_ids(name: str, ids: Sequence[int], limits: Limits) -> None:
    wrong = next((token for token in ids if not 0 <= token < limits.vocab_size), None)
    if wrong is not None:
        raise RequestRefusedError(f"{name} holds {wrong}, the vocabulary has ids 0 to {limits.vocab_size - 1}")


def _sampling(tensors: Tensors) -> Sampling | None:
    top_k = integer(tensors, "runtime_top_k") or 0
    top_p = number(tensors, "runtime_top_p") or 0.0
    temperature = number(tensors, "temperature")
    seed = integer(tensors, "seed") or 0
    if top_k < 0:
        raise RequestRefusedError(f"runtime_top_k is {top_k}, it must be 0 (all tokens) or more")
    if top_p > 1:
        raise RequestRefusedError(f"runtime_top_p is {top_p:g}, it must be at most 1")
    if temperature is not None and temperature < 0:
        raise RequestRefusedError(f"temperature is {temperature:g}, it must be 0 (greedy) or more")
    if top_k == 1 or (top_k == 0 and top_p <= 0) or temperature == 0:
        return None
    return Sampling(
        temperature=1.0 if temperature is None else temperature,
        top_k=top_k or None,
        top_p=top_p if 0 < top_p < 1 else None,
        seed=seed,
    )


def _penalties(tensors: Tensors) -> Penalties:
    repetition = number(tensors, "repetition_penalty")
    if repetition is not None and repetition <= 0:
        raise RequestRefusedError(f"repetition_penalty is {repetition:g}, it must be above 0")
    presence = number(tensors, "presence_penalty") or 0.0
    frequency = number(tensors, "frequency_penalty") or 0.0
    for name, value in (("presence_penalty", presence), ("frequency_penalty", frequency)):
        if not -2 <= value <= 2:
            raise RequestRefusedError(f"{name} is {value:g}, it must be from -2 to 2")
    return Penalties(
        repetition=1.0 if repetition is None else repetition,
        presence=presence,
        frequency=frequency,
    )


def _stop_rules(tensors: Tensors, limits: Limits, *, prompt_tokens: int, draft_tokens: int) -> StopRules:
    wanted = integer(tensors, "request_output_len")
    if wanted is None or wanted < 1:
        raise RequestRefusedError(f"request_output_len is {wanted}, it must be at least 1")
    min_tokens = integer(tensors, "min_tokens") or 0
    if min_tokens < 0:
        raise RequestRefusedError(f"min_tokens is {min_tokens}, it must be 0 or more")
    max_new_tokens = min(wanted, limits.max_seq_len - prompt_tokens)
    if draft_tokens:
        max_new_tokens = min(max_new_tokens, draft_tokens + 1)
    rules = StopRules(
        max_new_tokens=max_new_tokens,
        min_new_tokens=min(min_tokens, max_new_tokens),
        end_id=_end_id(tensors, limits),
        stop_words=_words(tensors, "stop_words_list", limits),
        bad_words=_words(tensors, "bad_words_list", limits),
        guide=read_guide(tensors),
    )
    _check_guide(rules)
    return rules


def _check_guide(rules: StopRules) -> None:
    """What the engine cannot do together with a guide: it would run out of tokens that are allowed."""
    if rules.guide is None:
        return
    if rules.bad_words:
        raise RequestRefusedError(
            f"{GUIDE} and bad_words_list are given: the engine follows one grammar; leave one of them out"
        )
    if rules.end_id is None:
        raise RequestRefusedError(f"{TYPE} is given and end_id is missing: a text that is complete could not end")
    if rules.min_new_tokens > 0:
        raise RequestRefusedError(
            f"{TYPE} is given and min_tokens is {rules.min_new_tokens}: a text may be complete before; leave one out"
        )


def _end_id(tensors: Tensors, limits: Limits) -> int | None:
    end_id = integer(tensors, "end_id")
    if end_id is None or end_id < 0:
        return None
    _check_ids("end_id", [end_id], limits)
    return end_id


def _words(tensors: Tensors, name: str, limits: Limits) -> tuple[Word, ...]:
    words = unpack(tensors, name)
    for word in words:
        _check_ids(name, word, limits)
    return words


def _wishes(tensors: Tensors, profile: ModelProfile) -> OutputWishes:
    streaming = bool(flag(tensors, "streaming"))
    if streaming and not profile.decoupled:
        raise RequestRefusedError("streaming is true, but the model is not decoupled: it gives one response a request")
    mark = read_mark(tensors)
    exclude = flag(tensors, "exclude_input_in_output")
    if exclude is None:
        exclude = profile.exclude_input_in_output
    return OutputWishes(
        streaming=streaming,
        echo_prompt=not streaming and not exclude,
        log_probs=bool(flag(tensors, "return_log_probs")),
        num_input_tokens=bool(flag(tensors, "return_num_input_tokens")),
        num_output_tokens=bool(flag(tensors, "return_num_output_tokens")),
        perf_metrics=bool(flag(tensors, "return_perf_metrics")),
        trailer=mark is not None,
        is_bls_call=mark == CALL,
    )
