"""The process that computes logits (`python -m slipstream.backend.logits_pass`).

It has the engine's graph a second time, outside the pipeline and without paged attention, with the properties that the
pipeline has. It is started when the first request asks for logits.
"""

from __future__ import annotations

import os
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from slipstream.backend.logits import Pass
from slipstream.backend.orphan import end_stub_with_server
from slipstream.backend.pipeline import engine_facts

Channel: TypeAlias = "Connection[NDArray[np.float32] | str, Pass]"

_GRAPH = "openvino_model.xml"
_CHUNK_TOKENS = 128  # of a pass at once: the graph computes the logits of all, wanted or not
_NICENESS = 5  # the streams that run come first


class ForwardPass:
    """The graph with a KV cache for one sequence, which stays: a pass that begins as the one before computes the rest.

    So the steps of speculation, each of which sends all ids so far, cost as much as the tokens that are new.
    """

    def __init__(self, engine_dir: Path, execution: str) -> None:
        import openvino

        facts = engine_facts(engine_dir)
        self._vocab_size = int(facts["vocab_size"])
        properties: dict[str, Any] = facts["execution"][execution]
        core = openvino.Core()
        self._request = core.compile_model(engine_dir / _GRAPH, "CPU", properties).create_infer_request()
        self._ids: list[int] = []  # those in the cache

    def rows(self, wanted: Pass) -> NDArray[np.float32]:
        """Logits [tokens, vocabulary], from `first_row` to the last."""
        kept = []
        for start in range(self._reuse(wanted), len(wanted.ids), _CHUNK_TOKENS):
            rows = self._infer(wanted.ids[start : start + _CHUNK_TOKENS], start)
            if start + len(rows) > wanted.first_row:
                kept.append(rows[max(wanted.first_row - start, 0) :])
        self._ids = wanted.ids
        return np.concatenate(kept)

    def _reuse(self, wanted: Pass) -> int:
        """Cut the cache down to what it shares with `wanted`, before its first row; how many tokens that is."""
        cached, self._ids = self._ids, []  # nothing is known about a cache whose pass fails
        most = min(len(cached), wanted.first_row)
        count = next((place for place in range(most) if cached[place] != wanted.ids[place]), most)
        if count == 0:
            self._request.reset_state()
        elif count < len(cached):
            self._cut(count)
        return count

    def _cut(self, count: int) -> None:
        import openvino

        for state in self._request.query_state():  # [1, heads, tokens, head size]
            state.state = openvino.Tensor(state.state.data[:, :, :count].copy())

    def _infer(self, ids: list[int], start: int) -> NDArray[np.float32]:
        end = start + len(ids)
        self._request.infer(
            {
                "input_ids": np.array([ids], np.int64),
                "attention_mask": np.ones((1, end), np.int64),
                "position_ids": np.arange(start, end, dtype=np.int64)[np.newaxis],
                "beam_idx": np.zeros(1, np.int32),
            }
        )
        # Copied, for the next pass overwrites it; what is behind the vocabulary flags logits that are not finite.
        rows: NDArray[np.float32] = self._request.get_output_tensor(0).data[0, :, : self._vocab_size].copy()
        return rows


def serve(forward: ForwardPass, channel: Channel) -> None:
    """Answer each pass with its rows, or with the reason why there are none."""
    while True:
        wanted = channel.recv()
        try:
            answer: NDArray[np.float32] | str = forward.rows(wanted)
        except (RuntimeError, MemoryError) as error:
            answer = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        channel.send(answer)


def main() -> None:
    """Serve the channel on the file descriptor in `argv[1]`, with the engine in `argv[2]` and execution `argv[3]`."""
    end_stub_with_server()
    os.nice(_NICENESS)
    channel: Channel = Connection(int(sys.argv[1]))
    forward = ForwardPass(Path(sys.argv[2]), sys.argv[3])
    channel.send("")
    try:
        serve(forward, channel)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


if __name__ == "__main__":
    main()
