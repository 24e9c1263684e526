"""Slipstream against other servers of the same model on the same cores: the peers, and whose turn it is.

All servers are up and take turns in one run; between its turns a peer's processes are stopped, so that its idle threads
cost the others nothing. Slipstream's are not: it waits without spinning.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from slipstream.client import Sampling, TextRequest, TokenRequest
from slipstream.errors import SlipstreamError
from slipstream.perf.fresh_prompts import FreshPrompts
from slipstream.perf.peer_client import StreamTimes, stream_grpc, stream_http
from slipstream.perf.peer_servers import Peer, PeerServer, serving_peer
from slipstream.pipeline import Context
from slipstream.progress import Reporter
from slipstream.serve.supervise import ServedDeployment, served
from slipstream.text.tokenizer import Tokenizer

OURS = ("tensorrt_llm", "ensemble")
WARM_UP_TOKENS = 8
Prompts = Sequence[tuple[str, list[int]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerLoad:
    """What is asked of each server."""

    streams: tuple[int, ...] = (1, 4, 16, 32)
    prompt_tokens: int = 64
    output_tokens: int = 128
    rounds: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Every run of every server, in the order in which they were made, and why a server has no more of them."""

    runs: list[PeerRun]
    left_out: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRun:
    """One turn of one server."""

    server: str
    streams: int
    wall_s: float
    replies: list[StreamTimes]
    server_cpu_s: float
    client_cpu_s: float
    rss_gib: float

    @property
    def tokens_per_s(self) -> float:
        return sum(reply.tokens for reply in self.replies) / self.wall_s


def measure_peers(context: Context, peers: Sequence[Peer], text: str, load: PeerLoad, report: Reporter) -> Measured:
    """Take turns; the first, of as many streams as there will be, warms up.

    A peer that does not start, or does not end a turn in `peer_client.TIMEOUT_S`, is left out from then on.
    """
    import aiohttp

    prompts = FreshPrompts(Tokenizer.load(context.workspace.model), text)
    measured = Measured(runs=[], left_out={})
    with _servers(context, peers, measured.left_out, report) as servers:
        for number, streams in [(0, max(load.streams)), *itertools.product(range(1, load.rounds + 1), load.streams)]:
            asked, tokens = prompts.take(streams, load.prompt_tokens), load.output_tokens if number else WARM_UP_TOKENS
            for name in _in_turn(list(servers), number):
                report(f"round {number} of {load.rounds}: {streams} streams, {name}", number / (load.rounds + 1))
                # The ensemble is the same engine: tensorrt_llm's prompts would be in its prefix cache.
                own = prompts.take(streams, load.prompt_tokens) if name == "ensemble" else asked
                try:
                    run = servers[name].run(own, tokens)
                except (TimeoutError, aiohttp.ClientError) as error:
                    measured.left_out[name] = (
                        f"round {number}, {streams} streams: {type(error).__name__} {error}".strip()
                    )
                    del servers[name]
                    continue
                if number:
                    measured.runs.append(run)
    return measured


class _Ours:
    """A model of the served deployment."""

    def __init__(self, name: str, deployment: ServedDeployment) -> None:
        self.name = name
        self._grpc = deployment.server.endpoints.grpc
        self._triton = psutil.Process(deployment.server.process.pid)

    def run(self, prompts: Prompts, tokens: int) -> PeerRun:
        messages = [self._request(text, ids, tokens).message().SerializeToString() for text, ids in prompts]
        family = [self._triton, *self._triton.children(recursive=True)]
        with _Turn(self.name, family, tokens) as turn:
            turn.replies = asyncio.run(stream_grpc(self._grpc, messages))
        return turn.result()

    def _request(self, text: str, ids: list[int], tokens: int) -> TextRequest | TokenRequest:
        forced = Sampling(min_tokens=tokens)
        if self.name == "ensemble":
            return TextRequest(prompt=text, max_tokens=tokens, sampling=forced)
        return TokenRequest(input_ids=tuple(ids), max_tokens=tokens, sampling=forced)


class _Theirs:
    """A peer; stopped outside of its turns."""

    def __init__(self, server: PeerServer) -> None:
        self.name = server.peer.name
        self._server = server
        server.pause()

    def run(self, prompts: Prompts, tokens: int) -> PeerRun:
        bodies = [self._server.peer.body(text, ids, tokens) for text, ids in prompts]
        self._server.resume()
        try:
            with _Turn(self.name, self._server.family, tokens) as turn:
                turn.replies = asyncio.run(stream_http(self._server.url, bodies))
            return turn.result()
        finally:
            self._server.pause()


class _Turn:
    """Clocks around one run."""

    def __init__(self, name: str, family: Sequence[psutil.Process], tokens: int) -> None:
        self._name, self._family, self._tokens = name, family, tokens
        self.replies: list[StreamTimes] = []

    def __enter__(self) -> _Turn:
        self._server_s, self._client_s, self._started = _cpu_s(self._family), time.process_time(), time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self._wall_s = time.monotonic() - self._started
        self._server_s, self._client_s = _cpu_s(self._family) - self._server_s, time.process_time() - self._client_s

    def result(self) -> PeerRun:
        given = {reply.tokens for reply in self.replies}
        if given != {self._tokens}:
            raise RuntimeError(f"{self._name} gave replies of {sorted(given)} tokens, {self._tokens} were asked for")
        return PeerRun(
            server=self._name,
            streams=len(self.replies),
            wall_s=self._wall_s,
            replies=self.replies,
            server_cpu_s=self._server_s,
            client_cpu_s=self._client_s,
            rss_gib=sum(process.memory_info().rss for process in self._family) / 2**30,
        )


@contextmanager
def _servers(
    context: Context, peers: Sequence[Peer], left_out: dict[str, str], report: Reporter
) -> Iterator[dict[str, _Ours | _Theirs]]:
    theirs: dict[str, _Ours | _Theirs] = {}
    workspace = context.workspace
    with ExitStack() as stack:
        for peer in peers:
            report(f"starting {peer.name}")
            try:
                theirs[peer.name] = _Theirs(stack.enter_context(serving_peer(peer, _logs(context.root))))
            except SlipstreamError as error:
                left_out[peer.name] = str(error)
        deployment = stack.enter_context(served(context.spec, workspace.model_repository, workspace.run, report))
        yield {**{name: _Ours(name, deployment) for name in OURS}, **theirs}


def _logs(root: Path) -> Path:
    return root / "build" / "peers" / "logs"


def _in_turn(names: list[str], number: int) -> list[str]:
    turn = number % len(names)
    return [*names[turn:], *names[:turn]]


def _cpu_s(family: Sequence[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in family)
