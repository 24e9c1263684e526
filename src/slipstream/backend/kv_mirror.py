"""A mirror of the pipeline's scheduler: which request takes part in a step, and which KV blocks it takes or finds.

The pipeline says neither. Both follow from rules that its source shows (OpenVINO GenAI 2026.4: scheduler.hpp and
block_manager.hpp), and from the requests, their tokens and the order of events alone, all of which are known here.
After every step two figures that the pipeline does give are compared with the mirror's: the blocks in use and the
requests that were scheduled. Once they differ, `is_exact` is false, and the mirror's figures are estimates.
"""

from __future__ import annotations

from collections.abc import Sequence

from slipstream.backend.kv_blocks import Block, BlockPool
from slipstream.backend.messages import Start

BLOCK_TOKENS = 32  # fixed by OpenVINO for CPUs


class _Request:
    """What the pipeline calls a sequence group of one sequence."""

    __slots__ = (
        "computed",
        "handle",
        "has_ended",
        "is_cancelled",
        "is_paused",
        "keys",
        "prompt",
        "reach",
        "scheduled",
        "start",
        "table",
    )

    def __init__(self, handle: int, ids: Sequence[int]) -> None:
        self.handle = handle
        self.prompt = len(ids)
        self.keys: list[int] = []  # of every beginning of the text: one token, two tokens, ...
        self.extend(ids)
        self.table: list[Block] = []
        self.computed = 0  # tokens in the KV cache
        self.reach = 0  # the largest `computed` so far
        self.scheduled = 0  # tokens of this step
        self.is_paused = False
        self.is_cancelled = False
        self.has_ended = False
        self.start = Start()

    @property
    def generates(self) -> bool:
        return self.reach >= self.prompt

    @property
    def missing(self) -> int:
        """Tokens to compute; none where the pipeline gave no token that is known here, as in a search with beams."""
        return min(max(max(self.prompt, self.reach) - self.computed, 1), len(self.keys) - self.computed)

    def extend(self, ids: Sequence[int]) -> None:
        key = self.keys[-1] if self.keys else 0
        for token in ids:
            key = hash((key, token))
            self.keys.append(key)


class KvMirror:
    """Call it as the pipeline is called: `add`, `begin_step` before a step and `end_step` after it, and so on."""

    def __init__(self, *, blocks: int, max_num_tokens: int, max_num_seqs: int, caching: bool, splits: bool) -> None:
        self._pool = BlockPool(blocks=blocks, caching=caching)
        self._caching = caching
        self._splits = splits  # long prompts are computed in parts, beside the streams that run
        self._max_num_tokens = max_num_tokens
        self._max_num_seqs = max_num_seqs
        self._requests: list[_Request] = []  # in the order they came
        self._by_handle: dict[int, _Request] = {}
        self._budget = 0
        self._used_blocks = 0
        self.is_exact = True

    def add(self, handle: int, prompt_ids: Sequence[int]) -> Start:
        """A request that the pipeline has accepted; its start is filled in as it proceeds."""
        self._settle()
        request = _Request(handle, prompt_ids)
        self._requests.append(request)
        self._by_handle[handle] = request
        if self._caching:
            self._restore(request)
        return request.start

    def push(self, handle: int, ids: Sequence[int]) -> None:
        """Tokens that the last step gave."""
        request = self._by_handle.get(handle)
        if request is not None:
            request.extend(ids)
            # Only the last one is not computed yet, also where speculation gave several.
            ahead = max(len(request.keys) - 1 - request.reach, 0)
            request.computed += ahead
            request.reach += ahead

    def end(self, handle: int) -> None:
        """The last step ended the request."""
        request = self._by_handle.get(handle)
        if request is not None:
            request.has_ended = True

    def cancel(self, handle: int) -> None:
        """The request is not scheduled any more, and its blocks are free after the next step."""
        request = self._by_handle.get(handle)
        if request is not None:
            request.is_cancelled = True

    def begin_step(self, now_ns: int) -> None:
        """Schedule the next step."""
        self._settle()
        self._budget = self._max_num_tokens
        for request in self._requests:
            self._trim(request)
        if self._splits or not self._schedule_whole_prompts():
            self._schedule_streams()
        if self._splits:
            self._schedule_prompts()
        for request in self._requests:
            request.is_paused = False
            if request.scheduled and not request.start.scheduled_ns:
                request.start.scheduled_ns = now_ns
        self._used_blocks = self._pool.blocks - self._pool.available

    def end_step(self, *, scheduled_requests: int, used_blocks: int) -> None:
        """The step is done; the arguments are what the pipeline says of it."""
        count = sum(request.scheduled > 0 for request in self._requests)
        self.is_exact = self.is_exact and (count, self._used_blocks) == (scheduled_requests, used_blocks)
        for request in self._requests:
            request.computed += request.scheduled
            request.reach = max(request.reach, request.computed)
            request.scheduled = 0
            request.has_ended = request.has_ended or request.is_cancelled

    def _settle(self) -> None:
        """Give back the blocks of the requests that the last step ended."""
        if not any(request.has_ended for request in self._requests):
            return
        for request in self._requests:
            if request.has_ended:
                del self._by_handle[request.handle]
                for block in request.table:
                    self._pool.give_back(block)
        self._requests = [request for request in self._requests if not request.has_ended]

    def _restore(self, request: _Request) -> None:
        """Find the longest beginning of the prompt that is in the cache; the last block may be partly filled."""
        lengths: list[int] = []
        while (length := lengths[-1] if lengths else 0) < request.prompt and length % BLOCK_TOKENS == 0:
            whole = min(length + BLOCK_TOKENS, request.prompt)
            candidates = (whole, *range(length + 1, whole))
            found = next((candidate for candidate in candidates if self._pool.holds(request.keys[candidate - 1])), None)
            if found is None:
                break
            lengths.append(found)
        if not lengths:
            return
        request.table = [self._pool.find(request.keys[length - 1]) for length in lengths]
        # The last token of the prompt is always computed, for the logits.
        request.computed = request.reach = min(lengths[-1], request.prompt - 1)
        request.start.cached_tokens = request.computed
        request.start.reused_blocks = len(lengths)

    def _trim(self, request: _Request) -> None:
        """Give back what lies behind the computed tokens."""
        while len(request.table) > _blocks(request.computed):
            self._pool.give_back(request.table.pop())

    def _schedule_streams(self) -> None:
        for index, request in enumerate(self._requests):
            if not request.generates or request.is_paused or request.is_cancelled or not self._budget:
                continue
            request.scheduled = min(self._budget, request.missing)
            self._make_room(index)
            if not request.scheduled or self._blocks_wanted(request) > self._pool.available:
                request.scheduled = 0
                continue
            self._append(request)
            self._budget -= request.scheduled

    def _schedule_prompts(self) -> None:
        for request in self._requests:
            if request.generates or request.is_paused or request.is_cancelled or not self._budget:
                continue
            room = _spare(request.computed) + self._pool.available * BLOCK_TOKENS
            tokens = min(self._budget, request.missing, room)
            wanted = _blocks(max(tokens - _spare(request.computed), 0))
            if wanted:
                self._take(request, wanted)
            request.scheduled = tokens
            self._budget -= tokens

    def _schedule_whole_prompts(self) -> bool:
        """Prompts are computed whole, and no stream beside them; true if there was one."""
        running = sum(request.generates for request in self._requests)
        before = self._budget
        for request in self._requests:
            if request.generates or request.is_paused or request.is_cancelled:
                continue
            wanted = _blocks(max(request.missing - _spare(request.computed), 0))
            if running >= self._max_num_seqs or self._budget < request.missing or wanted > self._pool.available:
                break
            request.scheduled = request.missing
            self._append(request)
            self._budget -= request.scheduled
            running += 1
        return self._budget < before

    def _blocks_wanted(self, request: _Request) -> int:
        wanted = _blocks(request.computed + request.scheduled) - len(request.table)
        users = request.table[-1].users if request.table else 1
        if users > 1:
            return users - 1 if wanted == 0 else wanted * users
        return wanted

    def _make_room(self, index: int) -> None:
        """Pause the requests that came last until the one at `index` fits."""
        request = self._requests[index]
        while (wanted := self._blocks_wanted(request)) > self._pool.available:
            last = next((i for i in range(len(self._requests) - 1, -1, -1) if self._requests[i].computed), 0)
            before = self._pool.available
            if last <= index:
                return
            self._pause(self._requests[last], wanted)
            if self._pool.available <= before:
                return

    def _pause(self, victim: _Request, wanted: int) -> None:
        """Take `wanted` blocks from the end of `victim`, or all it has if that is not more."""
        victim.is_paused = True
        lost = victim.computed
        if len(victim.table) > wanted:
            lost = min(lost, (lost % BLOCK_TOKENS or BLOCK_TOKENS) + (wanted - 1) * BLOCK_TOKENS)
            for _ in range(wanted):
                self._pool.give_back(victim.table.pop())
            if not self._splits and victim.computed - lost < victim.prompt:
                lost = victim.computed  # a prompt that is computed whole is kept whole
        if lost == victim.computed:
            for block in victim.table:
                self._pool.give_back(block)
            victim.table = []
        victim.computed -= lost

    def _append(self, request: _Request) -> None:
        """Room for the scheduled tokens; the last block is copied if another request uses it, too."""
        length = request.computed + request.scheduled
        wanted = _blocks(length) - len(request.table)
        if wanted > 0:
            self._take(request, wanted)
            return
        last = request.table[-1]
        if last.users > 1:
            request.table[-1] = self._pool.take(request.keys[length - 1])
            self._pool.give_back(last)
        else:
            self._pool.rename(last, request.keys[length - 1])

    def _take(self, request: _Request, count: int) -> None:
        """Take `count` blocks behind those that the request has."""
        end = len(request.table) * BLOCK_TOKENS
        if end:
            key = request.keys[end - 1]
            if request.table[-1].key != key:
                self._pool.rename(request.table[-1], key)
        for _ in range(count):
            end = min(end + BLOCK_TOKENS, len(request.keys))
            if not request.generates:
                request.start.new_blocks += self._pool.fresh > 0
                request.start.taken_blocks += 1
            request.table.append(self._pool.take(request.keys[end - 1]))


def _blocks(tokens: int) -> int:
    return -(-tokens // BLOCK_TOKENS)


def _spare(tokens: int) -> int:
    """Room in the last block."""
    return -tokens % BLOCK_TOKENS
