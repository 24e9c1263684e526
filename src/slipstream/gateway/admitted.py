"""An answer that is made once it is let in, and pays for what it took."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from slipstream.gateway.admission import Cost
from slipstream.gateway.answering import usage_of
from slipstream.gateway.errors import ApiError
from slipstream.gateway.exchange import Exchange
from slipstream.gateway.generation import Generation, Wanted
from slipstream.gateway.served_model import ServedModel
from slipstream.gateway.services import Services


async def admitted(
    parts: AsyncGenerator[bytes],
    generations: Sequence[Generation],
    exchange: Exchange,
    model: ServedModel,
    services: Services,
) -> AsyncGenerator[bytes]:
    """`parts`, begun when limits and queue let `generations` run; `ApiError` where they do not."""
    cost = cost_of(
        [generation.wanted for generation in generations],
        estimated_output_tokens=services.spec.admission.estimated_output_tokens,
    )
    async with services.admission.enter(exchange, model, cost) as ticket:
        needs_engine = any(generation.needs_engine for generation in generations)
        if needs_engine:
            await ticket.turn()
        has_failed = False
        try:
            async with aclosing(parts):
                async for part in parts:
                    yield part
        except ApiError:
            has_failed = True
            raise
        finally:
            ticket.settle(_tokens_taken(generations, has_failed=has_failed) if needs_engine else 0)


def cost_of(wanted: Sequence[Wanted], *, estimated_output_tokens: int) -> Cost:
    """What all choices of a request take at most."""
    prompts = {id(one.prompt_ids): len(one.prompt_ids) for one in wanted}
    return Cost(
        tokens=sum(prompts.values()) + sum(one.max_tokens for one in wanted),
        kv_tokens=sum(len(one.prompt_ids) + min(one.max_tokens, estimated_output_tokens) for one in wanted),
        choices=len(wanted),
    )


def _tokens_taken(generations: Sequence[Generation], *, has_failed: bool) -> int:
    """Prompts and what came out. A client that leaves has had its prompt read; a failure without a token costs none."""
    usage = usage_of(generations)
    return 0 if has_failed and not usage.completion_tokens else usage.prompt_tokens + usage.completion_tokens
