"""The mirror of the pipeline's scheduler against the pipeline itself, on a tiny model and random traffic."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slipstream.backend.kv_mirror import KvMirror
from slipstream.backend.messages import Start
from tests.fakes.checkpoints import TinyModel, write_checkpoint
from tests.fakes.engines import build

STEPS = 250
AMPLE, SCARCE, LEAST = 1000, 60, 24  # blocks: nothing is overwritten, unused ones are, and requests must be paused


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(write_checkpoint(tmp_path_factory.mktemp("mirror") / "checkpoint", TinyModel()))


@dataclass(kw_only=True)
class Request:
    ids: list[int]  # prompt and output
    handle: Any
    start: Start
    steps: int = 0  # up to its first token
    has_token: bool = False


@dataclass(kw_only=True)
class Pair:
    """The pipeline and its mirror, called alike."""

    pipeline: Any
    mirror: KvMirror
    blocks: int
    running: dict[int, Request] = field(default_factory=dict)
    count: int = 0

    def add(self, prompt: Sequence[int], max_tokens: int, *, beams: int = 1) -> Request:
        import openvino
        import openvino_genai

        config = openvino_genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.apply_chat_template = max_tokens, True, False
        config.set_eos_token_id(0)
        config.num_beams = beams
        self.count += 1
        handle = self.pipeline.add_request(self.count, openvino.Tensor(np.array([prompt], np.int64)), config)
        request = Request(ids=list(prompt), handle=handle, start=self.mirror.add(self.count, prompt))
        self.running[self.count] = request
        return request

    def cancel(self, number: int) -> None:
        self.running.pop(number).handle.cancel()
        self.mirror.cancel(number)

    def step(self) -> None:
        self.mirror.begin_step(1)
        self.pipeline.step()
        said = self.pipeline.get_metrics()
        used = round(said.cache_usage / 100 * self.blocks)
        self.mirror.end_step(scheduled_requests=said.scheduled_requests, used_blocks=used)
        for number, request in list(self.running.items()):
            self._read(number, request)

    def _read(self, number: int, request: Request) -> None:
        import openvino_genai

        request.steps += not request.has_token
        if request.handle.can_read():
            output = next(iter(request.handle.read().values()))
            request.has_token = True
            request.ids += output.generated_ids
            self.mirror.push(number, output.generated_ids)
            if output.finish_reason != openvino_genai.GenerationFinishReason.NONE:
                self.mirror.end(number)
                del self.running[number]

    def drain(self) -> None:
        while self.running:
            self.step()


def a_pair(engine: Path, *, blocks: int = AMPLE, max_num_tokens: int = 512, **changes: bool) -> Pair:
    import openvino_genai

    wishes: Mapping[str, bool] = {"caching": True, "splits": True} | changes
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.num_kv_blocks, scheduler.cache_size, scheduler.max_num_seqs = blocks, 0, 32
    scheduler.max_num_batched_tokens = max_num_tokens
    scheduler.enable_prefix_caching, scheduler.dynamic_split_fuse = wishes["caching"], wishes["splits"]
    properties = json.loads((engine / "engine.json").read_text())["execution"]["performance"]
    return Pair(
        pipeline=openvino_genai.ContinuousBatchingPipeline(str(engine), scheduler, "CPU", properties),
        mirror=KvMirror(blocks=blocks, max_num_tokens=max_num_tokens, max_num_seqs=32, **wishes),
        blocks=blocks,
    )


class Traffic:
    """Prompts that share beginnings, conversations that go on, and clients that leave."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._texts = [self._ids(200) for _ in range(3)]
        self._earlier: list[Request] = []

    def act(self, pair: Pair) -> None:
        """What happens before a step."""
        chance = self._random
        while not pair.running or (len(pair.running) < 6 and chance.random() < 0.2):
            self._earlier = [*self._earlier[-30:], pair.add(self._prompt(), chance.randrange(1, 50))]
        if chance.random() < 0.03:
            pair.cancel(chance.choice(list(pair.running)))

    def _prompt(self) -> list[int]:
        if self._earlier and self._random.random() < 0.3:
            return self._random.choice(self._earlier).ids[:190]
        return self._random.choice(self._texts)[: self._random.randrange(1, 150)] + self._ids(
            self._random.choice((0, 0, 3, 40))
        )

    def _ids(self, count: int) -> list[int]:
        return [self._random.randrange(100) for _ in range(count)]


@pytest.mark.parametrize(
    ("blocks", "max_num_tokens", "caching", "splits"),
    [
        (AMPLE, 512, True, True),
        (SCARCE, 40, True, True),
        (LEAST, 40, True, True),
        (LEAST, 512, True, False),
        (LEAST, 512, False, True),
    ],
    ids=["ample", "blocks are overwritten", "requests are paused", "whole prompts", "no prefix cache"],
)
def test_blocks_and_schedule_are_the_pipelines_after_every_step(
    engine: Path, blocks: int, max_num_tokens: int, caching: bool, splits: bool
) -> None:
    pair = a_pair(engine, blocks=blocks, max_num_tokens=max_num_tokens, caching=caching, splits=splits)
    traffic = Traffic(seed=blocks + max_num_tokens)
    for step in range(STEPS):
        traffic.act(pair)
        pair.step()
        assert pair.mirror.is_exact, f"step {step}"
    pair.drain()
    assert pair.mirror.is_exact


def test_a_prompt_takes_as_many_steps_as_the_tokens_that_were_not_found_need(engine: Path) -> None:
    chunk, choose = 8, random.Random(5)
    text = [choose.randrange(100) for _ in range(200)]
    pair = a_pair(engine, max_num_tokens=chunk)
    found = []
    for length in (100, 100, 64, 65, 20, 130, 33, 96, 97, 200):
        request = pair.add(text[:length], 2)
        pair.drain()
        assert request.steps == -(-(length - request.start.cached_tokens) // chunk), length
        found.append(request.start.cached_tokens)
    assert found == [0, 96, 63, 64, 0, 96, 32, 95, 96, 128]


def test_a_prompt_that_is_found_whole_gives_a_block_back_that_holds_its_last_token_alone(engine: Path) -> None:
    pair = a_pair(engine)
    for found in (0, 32):
        assert pair.add(list(range(33)), 1).start.cached_tokens == found
        pair.drain()
    assert pair.mirror.is_exact


def test_a_difference_is_noticed(engine: Path) -> None:
    pair = a_pair(engine)
    pair.mirror.add(99, [1, 2, 3])  # the pipeline knows nothing of it
    pair.add([4, 5], 2)
    pair.step()
    assert not pair.mirror.is_exact
    pair.drain()


def test_a_beam_search_is_noticed_and_its_prompt_is_found_again(engine: Path) -> None:
    pair, text = a_pair(engine), list(range(70))
    searching = pair.add(text, 20, beams=3)
    beside = pair.add([99, *text], 30)
    pair.drain()
    assert not pair.mirror.is_exact
    assert [one.start.cached_tokens for one in (searching, beside)] == [0, 0]
    found = [pair.add([*prompt, 5, 6], 2).start.cached_tokens for prompt in (text, [99, *text])]
    assert all(64 <= tokens <= 71 for tokens in found)
    pair.drain()
