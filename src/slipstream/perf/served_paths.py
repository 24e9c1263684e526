"""The ways from a client to the engine, each as a batch of streams that begin together."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from slipstream.client import Sampling, TextRequest, TokenRequest
from slipstream.client.tensors import ints, raw_outputs
from slipstream.client.wire import STREAM_INFER
from slipstream.perf.bare_engine import Run
from slipstream.text.detokenizer import Detokenizer
from slipstream.text.tokenizer import Tokenizer

# `fused`: the client tokenizes and detokenizes itself, and speaks to `tensorrt_llm`.
SERVED_PATHS = ("tensorrt_llm", "fused", "ensemble", "tensorrt_llm_bls")
Prompt = tuple[str, list[int]]  # as text and as ids


@dataclass(frozen=True, slots=True)
class ServedPaths:
    """Runs streams through one server."""

    grpc: str
    triton_pid: int
    tokenizer: Tokenizer

    def run(self, path: str, prompts: Sequence[Prompt], tokens: int) -> Run:
        """`tokens` tokens for each of `prompts`."""
        triton = psutil.Process(self.triton_pid)
        server = [process for process in (triton, *triton.children(recursive=True)) if not _is_step_loop(process)]
        client = [psutil.Process()]
        server_s, client_s, started = _cpu_s(server), _cpu_s(client), time.monotonic()
        replies = asyncio.run(self._collect(path, prompts, tokens))
        wall_s, client_s, server_s = time.monotonic() - started, _cpu_s(client) - client_s, _cpu_s(server) - server_s
        counts = [count for reply in replies for message in reply.messages if (count := _tokens_in(message))]
        return Run(
            tokens=sum(counts),
            responses=len(counts),
            wall_s=wall_s,
            cpu_s=server_s,
            client_cpu_s=client_s,
            ttft_p50_ms=1000 * statistics.median(reply.first_s - started for reply in replies),
        )

    def _message(self, path: str, prompt: Prompt, tokens: int) -> bytes:
        text, ids = prompt
        forced = Sampling(min_tokens=tokens)
        request: TextRequest | TokenRequest
        if path in ("ensemble", "tensorrt_llm_bls"):
            request = TextRequest(prompt=text, max_tokens=tokens, sampling=forced, model=path)
        else:
            own = self.tokenizer.encode(text, add_special_tokens=False) if path == "fused" else ids
            request = TokenRequest(input_ids=tuple(own), max_tokens=tokens, sampling=forced)
        serialized: bytes = request.message().SerializeToString()
        return serialized

    def _reader(self, path: str) -> Callable[[bytes], object]:
        """What the client does with a response: nothing, for reading is no part of what is measured, or its text."""
        if path != "fused":
            return len
        detokenizer = Detokenizer(self.tokenizer)
        return lambda message: detokenizer.push(_ids_in(message))

    async def _collect(self, path: str, prompts: Sequence[Prompt], tokens: int) -> list[_Reply]:
        from grpc import aio

        async with aio.insecure_channel(self.grpc) as channel:
            infer = channel.unary_stream(STREAM_INFER)

            async def read(prompt: Prompt) -> _Reply:
                call, take = infer(self._message(path, prompt, tokens)), self._reader(path)
                messages, first_s = [], 0.0
                while (message := await call.read()) is not aio.EOF:
                    first_s = first_s or time.monotonic()
                    take(message)
                    messages.append(message)
                return _Reply(messages, first_s)

            return await asyncio.gather(*map(read, prompts))


@dataclass(frozen=True, slots=True)
class _Reply:
    messages: list[bytes]
    first_s: float


def _outputs(message: bytes) -> dict[str, Any]:
    from tritonclient.grpc import service_pb2

    response = service_pb2.ModelStreamInferResponse.FromString(message)
    if response.error_message:
        raise RuntimeError(response.error_message)
    return dict(raw_outputs(response.infer_response))


def _ids_in(message: bytes) -> tuple[int, ...]:
    return ints(_outputs(message).get("output_ids", b""))


def _tokens_in(message: bytes) -> int:
    outputs = _outputs(message)
    counts = ints(outputs.get("num_output_tokens", b"")) or ints(outputs.get("sequence_length", b""))
    return counts[0] if counts else 0


def _is_step_loop(process: psutil.Process) -> bool:
    """It runs the engine's kernels, which the bare engine does as well."""
    return "slipstream.backend.step_loop" in process.cmdline()


def _cpu_s(family: Sequence[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in family)
