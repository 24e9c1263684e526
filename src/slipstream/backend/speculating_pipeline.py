"""Two pipelines as one: requests that speculate, and those that do not.

OpenVINO's speculative pipelines take only requests that speculate, and its plain one none of them, so there are two,
each with weights and a KV cache of its own. A request that speculates may be moved to the plain one between two steps:
what it holds becomes a prompt there. None is moved the other way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from slipstream.backend.messages import Generate, Tokens
from slipstream.backend.parameters import PipelineSettings
from slipstream.backend.pipeline import Generation, OpenVinoPipeline, Pipeline
from slipstream.backend.prompt_lookup import LookupForecast, PromptLookup
from slipstream.backend.speculation import Speculation
from slipstream.backend.speculation_control import SpeculationControl


def open_pipeline(settings: PipelineSettings) -> Pipeline:
    """The pipeline of a deployment: the plain one, and another beside it where the deployment speculates."""
    plain = OpenVinoPipeline(settings)
    if settings.speculation is None:
        return plain
    return SpeculatingPipeline(plain, OpenVinoPipeline(settings, settings.speculation), settings.speculation)


class SpeculatingPipeline:
    """Chooses for each request, and moves those that speculate where the control says that it costs."""

    def __init__(
        self,
        plain: Pipeline,
        speculative: Pipeline,
        speculation: Speculation,
        *,
        now_s: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._plain = _Side(plain)
        self._speculative = _Side(speculative)
        self._draft_len = speculation.max_draft_len
        self._looks_up = speculation.draft_engine_dir is None
        self._control = SpeculationControl(forecasts=self._looks_up)
        self._now_s = now_s

    def add(self, request: Generate) -> Generation:
        """Begin `request`; one that may speculate only as long as it pays begins so where all that run do."""
        side = self._speculative if self._speculates(request) else self._plain
        generation = SpeculatingGeneration(request, side.pipeline.add(request), draft_len=self._draft_len)
        if side is self._speculative:
            generation.lookup = PromptLookup(request.prompt_ids) if self._looks_up else None
            generation.speculates = True
        elif self._looks_up and request.speculation == "auto":
            generation.forecast = LookupForecast(request.prompt_ids, self._draft_len)
        side.live.append(generation)
        return generation

    def step(self) -> None:
        """One step of each pipeline that has requests; a step that brings several tokens is one step."""
        self._forget_ended()
        self._move_losers()
        plain_s = self._step_side(self._plain)
        speculative_s = self._step_side(self._speculative)
        self._note(plain_s, speculative_s)

    def kv_cache_usage(self) -> float:
        """Of both caches, as a share of one; never above 1."""
        sides = (self._plain, self._speculative)
        return min(1.0, sum(side.pipeline.kv_cache_usage() for side in sides if side.live))

    def kv_cache_bytes(self) -> int:
        return self._plain.pipeline.kv_cache_bytes() + self._speculative.pipeline.kv_cache_bytes()

    def speculating(self) -> int:
        return len(self._speculative.live)

    def _speculates(self, request: Generate) -> bool:
        if request.speculation != "auto":
            return request.speculation == "on"
        self._forget_ended()
        running = self._speculative.live
        others = [one for one in self._plain.live if not one.is_ended]
        if others:
            return False
        held = len(request.prompt_ids) + sum(one.context_tokens for one in running)
        return self._control.may_begin(len(running) + 1, held)

    def _forget_ended(self) -> None:
        for side in (self._plain, self._speculative):
            side.owes_step = side.owes_step or any(generation.is_cancelled for generation in side.live)
            side.live = [generation for generation in side.live if not generation.is_ended]

    def _move_losers(self) -> None:
        """Requests that speculate go on without, when they lose, and when others run without: two steps are dear."""
        losers = [one for one in self._speculative.live if one.request.speculation == "auto"]
        if not losers:
            return
        mixed = bool(self._plain.live) or len(losers) < len(self._speculative.live)
        held = sum(one.context_tokens for one in losers)
        if not mixed and not self._control.must_stop(len(losers), held):
            return
        self._control.note_move(len(losers), sum(one.context_tokens for one in losers if one.has_begun))
        for generation in losers:
            generation.move_to(self._plain.pipeline)
        self._speculative.live = [one for one in self._speculative.live if one not in losers]
        self._plain.live += losers
        self._speculative.owes_step = True

    def _step_side(self, side: _Side) -> float:
        if not (side.live or side.owes_step):
            return 0.0
        side.owes_step = False
        began_s = self._now_s()
        side.pipeline.step()
        took_s = self._now_s() - began_s
        for generation in side.live:
            generation.collect()
        return took_s

    def _note(self, plain_s: float, speculative_s: float) -> None:
        """Feed the control, with steps that are of one kind; a mixture is wanted by requests, not by it."""
        plain, speculative = self._plain.live, self._speculative.live
        for generation in plain:
            if generation.forecast is not None:
                self._control.note_yields(generation.forecast.push(generation.new_ids))
        if plain and speculative:
            return
        live = plain or speculative
        tokens = sum(len(generation.new_ids) for generation in live)
        prompt_tokens = sum(generation.take_prompt() for generation in live)
        if speculative:
            if all(one.request.speculation == "auto" for one in speculative):
                self._control.note_speculative(len(live), tokens, prompt_tokens, speculative_s)
        elif prompt_tokens or any(not generation.has_begun for generation in live):
            self._control.note_prompt(len(live), prompt_tokens, plain_s)
        elif live:
            self._control.note_plain(len(live), tokens, plain_s)


class SpeculatingGeneration:
    """A request in one of the two pipelines."""

    def __init__(self, request: Generate, inner: Generation, *, draft_len: int) -> None:
        self.request = request
        self.speculates = False
        self.lookup: PromptLookup | None = None  # of one that speculates with n-grams
        self.forecast: LookupForecast | None = None  # of one that might
        self.new_ids: Sequence[int] = ()  # of the last step
        self.is_ended = False
        self.is_cancelled = False
        self._inner = inner
        self._draft_len = draft_len
        self._made: list[int] = []
        self._unread: Tokens | None = None
        self._unread_prompt = len(request.prompt_ids)

    @property
    def has_begun(self) -> bool:
        return bool(self._made)

    @property
    def context_tokens(self) -> int:
        return len(self.request.prompt_ids) + len(self._made)

    def take_prompt(self) -> int:
        """Tokens of the prompt, once, in the step that brings the first token."""
        tokens = self._unread_prompt if self._made or self.is_ended else 0
        if tokens:
            self._unread_prompt = 0
        return tokens

    def collect(self) -> None:
        """Take what the step brought, all of it."""
        got = self._inner.read()
        while got is not None and got.ending is None and (more := self._inner.read()) is not None:
            got = _joined(got, more)
        self.new_ids = [] if got is None else got.ids
        if got is None:
            return
        if self.speculates:
            got = self._counted(got)
        if self._made:
            got = replace(got, start=None)  # one that was moved has begun before
        self._made += got.ids
        self.is_ended = got.ending is not None
        self._unread = got if self._unread is None else _joined(self._unread, got)

    def read(self) -> Tokens | None:
        unread, self._unread = self._unread, None
        return unread

    def cancel(self) -> None:
        self.is_ended = self.is_cancelled = True
        self._inner.cancel()

    def move_to(self, pipeline: Pipeline) -> None:
        """Go on without speculation: what was written so far joins the prompt."""
        self._inner.cancel()
        made = len(self._made)
        stop = replace(
            self.request.stop,
            max_new_tokens=self.request.stop.max_new_tokens - made,
            min_new_tokens=max(0, self.request.stop.min_new_tokens - made),
        )
        prompt_ids = [*self.request.prompt_ids, *self._made]
        self._inner = pipeline.add(replace(self.request, prompt_ids=prompt_ids, stop=stop, speculation="off"))
        self.speculates, self.lookup = False, None
        self._unread_prompt = len(prompt_ids)

    def _counted(self, got: Tokens) -> Tokens:
        """With what was proposed for it: nothing in the step of the prompt, and never past the output's end."""
        drafted = 0
        if self._made:
            room = min(self._draft_len, self.request.stop.max_new_tokens - len(self._made) - 1)
            drafted = room if self.lookup is None else len(self.lookup.propose(room))
        if self.lookup is not None:
            self.lookup.extend(got.ids)
        accepted = min(drafted, max(0, len(got.ids) - 1))
        return replace(got, drafted=drafted, accepted=accepted)


@dataclass(slots=True)
class _Side:
    pipeline: Pipeline
    live: list[SpeculatingGeneration] = field(default_factory=list)
    owes_step: bool = False  # the pipeline frees the blocks of what was cancelled in its next step


def _joined(first: Tokens, second: Tokens) -> Tokens:
    return Tokens(
        first.handle,
        [*first.ids, *second.ids],
        None if first.log_probs is None else [*first.log_probs, *(second.log_probs or [])],
        second.ending,
        second.failure,
        first.start,
        drafted=first.drafted + second.drafted,
        accepted=first.accepted + second.accepted,
        beams=second.beams,
    )
