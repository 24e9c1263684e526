"""The bare engine as the yardstick: the pipeline of the backend, driven in a loop, with nothing around it.

It lives in a process of its own (`python -m slipstream.perf.bare_engine SETTINGS`), reads one JSON list of prompts a
line and answers with one JSON object a line, so that it can take turns with a server in one run.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from slipstream.backend.messages import Generate
from slipstream.backend.parameters import PipelineSettings
from slipstream.backend.requests import Penalties, StopRules


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One batch of streams that began together."""

    tokens: int
    responses: int
    wall_s: float
    cpu_s: float  # of the server's processes save the one that runs the engine, or of the bare engine
    client_cpu_s: float = 0.0
    ttft_p50_ms: float = 0.0


class BareEngine:
    """The process that holds the bare engine."""

    def __init__(self, settings: PipelineSettings) -> None:
        facts = {**asdict(settings), "engine_dir": str(settings.engine_dir)}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "slipstream.perf.bare_engine", json.dumps(facts)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # as the server has one: the kernel shares the processors between sessions
        )

    def run(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> Run:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([list(map(list, prompts)), max_tokens]), file=self._process.stdin, flush=True)
        return Run(**json.loads(self._process.stdout.readline()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()


def forced_generation(handle: int, prompt_ids: list[int], tokens: int) -> Generate:
    """Greedy, of exactly `tokens`."""
    stop = StopRules(max_new_tokens=tokens, min_new_tokens=tokens, end_id=None, stop_words=(), bad_words=())
    return Generate(handle, prompt_ids, None, Penalties(), stop, (), log_probs=False)


def _generate(pipeline: Any, requests: Sequence[Generate], most: int) -> Run:
    """All `requests`, at most `most` at a time, as the step loop has it."""
    cpu_s, started = time.process_time(), time.monotonic()
    waiting = deque(requests)
    running: list[Any] = []
    begun: dict[int, float] = {}
    tokens = 0
    while waiting or running:
        while waiting and len(running) < most:
            running.append(pipeline.add(waiting.popleft()))
        pipeline.step()
        read = [(generation, generation.read()) for generation in running]
        for new in (new for _, new in read if new is not None and new.ids):
            tokens += len(new.ids)
            begun.setdefault(new.handle, time.monotonic() - started)
        running = [generation for generation, new in read if new is None or new.ending is None]
    wall_s = time.monotonic() - started
    return Run(
        tokens=tokens,
        responses=tokens,
        wall_s=wall_s,
        cpu_s=time.process_time() - cpu_s,
        ttft_p50_ms=1000 * statistics.median(begun.values()),
    )


def main() -> None:
    from slipstream.backend.pipeline import OpenVinoPipeline

    facts = json.loads(sys.argv[1])
    settings = PipelineSettings(**{**facts, "engine_dir": Path(facts["engine_dir"])})
    pipeline = OpenVinoPipeline(settings)
    handle = 0
    for line in sys.stdin:
        prompts, max_tokens = json.loads(line)
        requests = [forced_generation(handle + index, ids, max_tokens) for index, ids in enumerate(prompts)]
        result = _generate(pipeline, requests, settings.max_batch_size)
        handle += len(prompts)
        print(json.dumps(asdict(result)), flush=True)


if __name__ == "__main__":
    main()
