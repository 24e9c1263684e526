"""What a request gets of speculation, and the two pipelines behind one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slipstream.backend.messages import Ending, Generate, Tokens
from slipstream.backend.requests import Penalties, StopRules, read_request
from slipstream.backend.speculating_pipeline import SpeculatingGeneration, SpeculatingPipeline
from slipstream.backend.speculation import Speculation, Traits, Wish, settle_wish
from slipstream.backend.tensors import RequestRefusedError
from slipstream.backend.words import pack
from tests.unit.test_backend_requests import a_profile, tensors

LOOKUP = Speculation(max_draft_len=3, draft_engine_dir=None)
DRAFT = Speculation(max_draft_len=3, draft_engine_dir=Path("/draft"))
PROMPT = list(range(40))


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0


class PaperGeneration:
    """Token n of a text is n, whatever part of it is the prompt."""

    def __init__(self, request: Generate) -> None:
        self.request = request
        self.next = len(request.prompt_ids)
        self.left = request.stop.max_new_tokens
        self.waiting: list[Tokens] = []
        self.is_cancelled = False

    def make(self, count: int) -> None:
        count = min(count, self.left)
        ids = list(range(self.next, self.next + count))
        self.next, self.left = self.next + count, self.left - count
        # Token by token: a step may leave several outputs to read.
        for index, token in enumerate(ids):
            is_last = index == len(ids) - 1 and not self.left
            self.waiting.append(Tokens(self.request.handle, [token], [-0.5], Ending.LENGTH if is_last else None))

    def read(self) -> Tokens | None:
        return self.waiting.pop(0) if self.waiting else None

    def cancel(self) -> None:
        self.is_cancelled = True


class PaperPipeline:
    """Brings `tokens` a step, one in the first, and takes `step_s` for it and `token_s` for a token of a prompt."""

    def __init__(self, clock: Clock, *, tokens: int, step_s: float, token_s: float = 0.001) -> None:
        self._clock, self._tokens, self._step_s, self._token_s = clock, tokens, step_s, token_s
        self.generations: list[PaperGeneration] = []
        self.steps = 0

    def add(self, request: Generate) -> PaperGeneration:
        self.generations.append(PaperGeneration(request))
        return self.generations[-1]

    def step(self) -> None:
        self.steps += 1
        self.generations = [one for one in self.generations if not one.is_cancelled and one.left]
        for one in self.generations:
            is_first = one.next == len(one.request.prompt_ids)
            one.make(1 if is_first else self._tokens)
            self._clock.now_s += self._token_s * len(one.request.prompt_ids) if is_first else 0.0
        self._clock.now_s += self._step_s if self.generations else 0.0

    def kv_cache_usage(self) -> float:
        return 0.75

    def kv_cache_bytes(self) -> int:
        return 1024

    def speculating(self) -> int:
        return 0


class Both:
    """A speculating pipeline, and what each of its two does."""

    def __init__(self, speculation: Speculation = DRAFT, *, brings: int = 4, step_s: float = 0.012) -> None:
        self.clock = Clock()
        self.plain = PaperPipeline(self.clock, tokens=1, step_s=0.010)
        self.speculative = PaperPipeline(self.clock, tokens=brings, step_s=step_s)
        self.pipeline = SpeculatingPipeline(self.plain, self.speculative, speculation, now_s=lambda: self.clock.now_s)
        self._handle = 0

    def begin(self, wish: Wish, tokens: int = 100) -> SpeculatingGeneration:
        self._handle += 1
        stop = StopRules(max_new_tokens=tokens, min_new_tokens=tokens, end_id=None, stop_words=(), bad_words=())
        request = Generate(self._handle, PROMPT, None, Penalties(), stop, (), True, wish)
        generation = self.pipeline.add(request)
        assert isinstance(generation, SpeculatingGeneration)
        return generation

    def finish(self, generation: SpeculatingGeneration) -> Tokens:
        got = Tokens(generation.request.handle, [], [])
        while got.ending is None:
            self.pipeline.step()
            new = generation.read()
            if new is not None:
                got = replace(
                    new,
                    ids=[*got.ids, *new.ids],
                    log_probs=[*(got.log_probs or []), *(new.log_probs or [])],
                    drafted=got.drafted + new.drafted,
                    accepted=got.accepted + new.accepted,
                )
        return got


def settled(asked: str | None, policy: Wish | None, **changed: bool) -> Wish:
    return settle_wish(asked, policy, replace(Traits(is_greedy=True), **changed))


def test_a_request_that_does_not_say_gets_what_the_deployment_says() -> None:
    assert [settled(None, policy) for policy in ("off", "auto", "on")] == ["off", "auto", "on"]
    assert settled(None, None) == "off"


def test_a_request_may_say_otherwise() -> None:
    assert settled("off", "on") == "off"
    assert settled("on", "off") == "on"
    assert settled("auto", "on") == "auto"


@pytest.mark.parametrize("asked", ["auto", "off"])
def test_without_speculation_in_the_engine_only_on_is_refused(asked: str) -> None:
    assert settled(asked, None) == "off"
    with pytest.raises(RequestRefusedError, match="has no engine\\.speculation"):
        settled("on", None)


def test_a_word_that_is_none_is_refused() -> None:
    with pytest.raises(RequestRefusedError, match="it must be off, auto or on"):
        settled("yes", "auto")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"is_greedy": False}, "drawn"),
        ({"has_draft": True}, "draft_input"),
        ({"has_beams": True}, "beam search"),
        ({"has_least_length": True}, "min_tokens"),
        ({"has_grammar": True}, "guide"),
    ],
)
def test_what_cannot_speculate_runs_without_or_is_refused_where_it_insists(
    change: dict[str, bool], reason: str
) -> None:
    assert settled(None, "on", **change) == "off"
    with pytest.raises(RequestRefusedError, match=reason):
        settled("on", "off", **change)


def test_what_cannot_be_moved_speculates_only_where_it_insists() -> None:
    assert settled(None, "auto", counts_output=True) == "off"
    assert settled("on", "auto", counts_output=True) == "on"


@pytest.mark.parametrize(
    ("changes", "wish"),
    [
        ({}, "on"),
        ({"repetition_penalty": [1.2]}, "on"),
        ({"stop_words_list": pack([[4]])}, "on"),
        ({"runtime_top_k": [5]}, "off"),
        ({"min_tokens": [2]}, "off"),
        ({"min_tokens": [2], "end_id": [-1]}, "on"),
        ({"bad_words_list": pack([[4]])}, "off"),
        ({"draft_input_ids": [[4]]}, "off"),
        ({"beam_width": [2], "num_return_sequences": [2]}, "off"),
    ],
)
def test_what_a_request_asks_for_besides_decides(changes: dict[str, Any], wish: Wish) -> None:
    limits = replace(a_profile().limits, max_beam_width=2)
    profile = replace(a_profile(), speculation="on", limits=limits)
    assert read_request(tensors(**changes), request_id="", profile=profile).speculation == wish


def test_a_request_that_insists_speculates_and_is_counted() -> None:
    both = Both()
    got = both.finish(both.begin("on", tokens=10))
    assert got.ids == list(range(40, 50))
    assert len(got.log_probs or []) == 10
    # One token of the prompt's step, then 4, 4 and 1: the last has no room for a draft.
    assert (got.drafted, got.accepted) == (6, 6)
    assert both.plain.steps == 0


def test_lookup_counts_only_what_the_text_proposes() -> None:
    both = Both(LOOKUP)
    assert both.finish(both.begin("on")).drafted == 0, "a text in which no token comes twice"


def test_requests_that_do_not_speculate_run_beside_those_that_insist() -> None:
    both = Both()
    slow, fast = both.begin("off", tokens=20), both.begin("on", tokens=20)
    assert both.finish(fast).ids == list(range(40, 60))
    assert both.finish(slow).ids == list(range(40 + 6, 60)) or slow.is_ended
    assert both.pipeline.kv_cache_usage() <= 1.0


def test_at_first_nothing_speculates_by_itself_and_then_what_pays() -> None:
    both = Both()
    assert both.finish(both.begin("auto")).drafted == 0
    for _ in range(80):
        last = both.finish(both.begin("auto"))
    assert last.drafted > 0
    assert last.ids == list(range(40, 140))


def test_what_does_not_pay_is_moved_and_its_text_goes_on() -> None:
    both = Both(brings=1, step_s=0.050)
    results = [both.finish(both.begin("auto")) for _ in range(120)]
    assert all(result.ids == list(range(40, 140)) and len(result.log_probs or []) == 100 for result in results)
    speculated = [result for result in results if result.drafted]
    assert speculated, "it was tried"
    assert any(result.drafted < 200 for result in speculated), "and given up on the way"
    assert both.speculative.generations == [], "what was moved is freed"


def test_a_second_request_that_must_not_speculate_ends_the_speculation_of_the_first() -> None:
    both = Both()
    for _ in range(80):
        both.finish(both.begin("auto"))
    first = both.begin("auto")
    for _ in range(3):
        both.pipeline.step()
    assert both.pipeline.speculating() == 1
    second = both.begin("auto")
    both.pipeline.step()
    assert both.pipeline.speculating() == 0
    ids = list(first.read().ids)  # type: ignore[union-attr]
    ids += both.finish(first).ids
    assert ids == list(range(40, 140))
    assert second.read() is not None


def test_cancelling_the_last_request_frees_it_with_the_next_step() -> None:
    both = Both()
    generation = both.begin("on")
    both.pipeline.step()
    generation.cancel()
    both.pipeline.step()
    assert both.speculative.generations == []
    assert both.pipeline.speculating() == 0


def test_what_was_cancelled_is_freed_also_when_another_begins_before_the_next_step() -> None:
    both = Both()
    generation = both.begin("on")
    both.pipeline.step()
    generation.cancel()
    both.begin("auto")
    both.pipeline.step()
    assert both.speculative.generations == []
