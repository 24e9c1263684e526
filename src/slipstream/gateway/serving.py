"""From a request that was understood to its answer."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi.responses import Response

from slipstream.gateway.admitted import admitted
from slipstream.gateway.answering import event_stream, whole_answer
from slipstream.gateway.errors import ApiError
from slipstream.gateway.exchange import Exchange
from slipstream.gateway.generation import Generation, Wanted
from slipstream.gateway.live_response import EVENT_HEADERS, JSON_HEADERS, LiveResponse
from slipstream.gateway.openai.answers import Answer
from slipstream.gateway.openai.requests import GenerationFields
from slipstream.gateway.services import Services

_MOST_CHOICES = 128


async def answer_request(
    exchange: Exchange, request: GenerationFields, wanted: Sequence[Wanted], answer: Answer, services: Services
) -> Response:
    """The one way of every request that generates: run what is `wanted`, `n` times each.

    Whatever guards, delays or saves a generation has its place here, in the order in which it happens.
    """
    each = request.n or 1
    if len(wanted) * each > _MOST_CHOICES:
        raise ApiError(400, f"n: {len(wanted)} prompts x {each}, the limit is {_MOST_CHOICES} choices", param="n")
    deadline_s, gaps = services.spec.request_timeout_s, services.metrics.gaps(answer.model.name)
    generations = [
        Generation(answer.model, one.numbered(number), deadline_s=deadline_s, exchange=exchange, gaps=gaps)
        for one in wanted
        for number in range(each)
    ]
    if services.cache is not None:
        await services.cache.look_up(exchange, request, generations, answer.model)
    exchange.model, exchange.generations = answer.model.name, generations
    include_usage = request.stream_options is not None and request.stream_options.include_usage
    parts = (
        event_stream(generations, answer, include_usage=include_usage)
        if request.stream
        else whole_answer(generations, answer)
    )
    parts = admitted(parts, generations, exchange, answer.model, services)
    headers = EVENT_HEADERS if request.stream else JSON_HEADERS
    return LiveResponse(parts, headers, late_headers=exchange.headers)
