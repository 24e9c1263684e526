"""The process that tries guides out before the engine sees them (`python -m slipstream.backend.guide_trial`).

A grammar is compiled inside a step of the pipeline. One that cannot be compiled makes that step throw, which ends all
requests that run; one that takes for ever, or exhausts the memory or the stack, takes the step loop with it. So each
guide is first compiled, and followed for some tokens, here: on a model of one layer, in a process that may be killed.
"""

from __future__ import annotations

import itertools
import os
import re
import resource
import sys
import tempfile
import time
from collections import deque
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeAlias

from slipstream.backend.guide import Guide, structured_output
from slipstream.backend.orphan import end_stub_with_server
from slipstream.backend.pipeline import engine_facts

Channel: TypeAlias = "Connection[str, Guide]"

_TOKENS = 256  # each trial writes as many, once the most probable ones and once drawn
_LAST_STEPS = 16
_MOST_STEP_MS = 4.0  # of the processor; an ambiguous grammar takes longer with each token, a good one 0.5
_MORE_MEMORY = 512 << 20  # bytes that grammars may take
_NICENESS = 5  # the streams that run come first
# Where XGrammar and OpenVINO say which line of their source is speaking.
_ORIGIN = re.compile(r"^\s*(\[[\d:]+\] \S+: |Exception from \S+:$|Check '.*' failed at \S+:$)")


class Trial:
    """A pipeline with the engine's tokenizer; one that threw cannot be used again, so another is opened."""

    def __init__(self, engine_dir: Path) -> None:
        facts = engine_facts(engine_dir)
        self._engine_dir = engine_dir
        self._vocab_size = int(facts["vocab_size"])
        self._eos_id = int(facts["eos_token_ids"][0])
        self._numbers = itertools.count()
        self.open()

    def open(self) -> None:
        """Begin with an untouched pipeline."""
        import openvino_genai

        from slipstream.backend.guide_trial_model import write_trial_model

        scheduler = openvino_genai.SchedulerConfig()
        scheduler.num_kv_blocks = 32
        with tempfile.TemporaryDirectory() as name:
            write_trial_model(Path(name), vocab_size=self._vocab_size, eos_id=self._eos_id)
            tokenizer = openvino_genai.Tokenizer(str(self._engine_dir))
            self._pipeline = openvino_genai.ContinuousBatchingPipeline(name, tokenizer, scheduler, "CPU")

    def run(self, guide: Guide) -> None:
        """Raise RuntimeError where the engine would, and where each token would hold up all streams."""
        import numpy as np
        import openvino

        prompt = openvino.Tensor(np.array([[self._eos_id]], np.int64))
        handles = [
            self._pipeline.add_request(next(self._numbers), prompt, self._config(guide, is_drawn=is_drawn))
            for is_drawn in (False, True)
        ]
        last: deque[float] = deque(maxlen=_LAST_STEPS)
        while self._pipeline.has_non_finished_requests():
            begin_s = time.process_time()
            self._pipeline.step()
            last.append((time.process_time() - begin_s) * 1000)
        del handles  # dropped before, they would end the requests
        if len(last) == _LAST_STEPS and sum(last) / _LAST_STEPS > _MOST_STEP_MS:
            raise RuntimeError(f"it takes {sum(last) / _LAST_STEPS:.1f} ms a token, the limit is {_MOST_STEP_MS:g}")

    def _config(self, guide: Guide, *, is_drawn: bool) -> Any:
        import openvino_genai

        config = openvino_genai.GenerationConfig()
        config.apply_chat_template = False
        config.max_new_tokens = _TOKENS
        config.set_eos_token_id(self._eos_id)
        config.do_sample = is_drawn
        config.structured_output_config = structured_output(guide)
        return config


def serve(trial: Trial, channel: Channel) -> None:
    """Answer each guide with the reason why it cannot be followed, or with nothing."""
    while True:
        guide = channel.recv()
        try:
            trial.run(guide)
            reason = ""
        except RuntimeError as error:
            reason = _reason(error)
            trial.open()
        channel.send(reason)


def _reason(error: BaseException) -> str:
    lines = [_ORIGIN.sub("", line).strip() for line in str(error).splitlines()]
    return " ".join(line for line in lines if line)[:300] or type(error).__name__


def _limit_memory() -> None:
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _MORE_MEMORY, used + _MORE_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """Serve the channel on the file descriptor in `argv[1]`; `argv[2]` is the engine's directory."""
    end_stub_with_server()
    os.nice(_NICENESS)
    channel: Channel = Connection(int(sys.argv[1]))
    trial = Trial(Path(sys.argv[2]))
    trial.run(Guide(kind="regex", text="a"))  # what is loaded at the first use belongs to no guide
    _limit_memory()
    channel.send("")
    try:
        serve(trial, channel)
    except (EOFError, BrokenPipeError, ConnectionResetError, MemoryError):
        return  # without memory nothing can be trusted; the end is the answer


if __name__ == "__main__":
    main()
