"""How often the company a request keeps changes its greedy text.

In performance mode activations are quantized over what is computed together and the KV cache has 8 bits, so two tokens
that are almost equally likely may change places when other requests are in the batch. In accuracy mode they must not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from slipstream.client import AsyncTritonClient
from slipstream.pipeline import Context
from slipstream.progress import Reporter
from slipstream.serve.supervise import served
from slipstream.text.tokenizer import Tokenizer

Ids = tuple[int, ...]


def measure_invariance(
    context: Context, prompts: Sequence[str], *, tokens: int, at_once: int, report: Reporter
) -> dict[str, object]:
    """Greedy token ids of each prompt alone, and with `at_once` in flight; serves the deployment meanwhile."""
    spec, workspace = context.spec, context.workspace
    tokenizer = Tokenizer.load(workspace.model)
    ids = [tokenizer.encode(prompt) for prompt in prompts]
    with served(spec, workspace.model_repository, workspace.run, report) as deployment:
        grpc = deployment.server.endpoints.grpc
        report("one at a time")
        alone = asyncio.run(_generate(grpc, ids, tokens, at_once=1))
        report("the same again")
        again = asyncio.run(_generate(grpc, ids, tokens, at_once=1))
        report(f"{at_once} at once")
        together = asyncio.run(_generate(grpc, ids, tokens, at_once=at_once))
    return {
        "execution": spec.runtime.execution,
        "prompts": len(prompts),
        "tokens_each": tokens,
        "at_once": at_once,
        "changed_when_repeated_alone": _changed(alone, again),
        "changed_in_company": _changed(alone, together),
        "median_first_change": _median_first_change(alone, together),
    }


async def _generate(grpc: str, prompts: Sequence[Sequence[int]], tokens: int, *, at_once: int) -> list[Ids]:
    room = asyncio.Semaphore(at_once)
    async with AsyncTritonClient(grpc) as client:

        async def one(ids: Sequence[int]) -> Ids:
            async with room:
                return (await client.stream_tokens(ids, max_tokens=tokens).finish()).token_ids

        return await asyncio.gather(*map(one, prompts))


def _changed(one: Sequence[Ids], other: Sequence[Ids]) -> int:
    return sum(a != b for a, b in zip(one, other, strict=True))


def _median_first_change(one: Sequence[Ids], other: Sequence[Ids]) -> int | None:
    """The place of the first token that differs, over the texts that do."""
    firsts = sorted(
        next((place for place, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        for a, b in zip(one, other, strict=True)
        if a != b
    )
    return firsts[len(firsts) // 2] if firsts else None
