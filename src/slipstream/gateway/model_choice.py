"""One model name that stands for three: each request for it goes to the model that its difficulty needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from slipstream.gateway.complexity import SIZES, Ask, Budget, Size, judge
from slipstream.gateway.errors import ApiError
from slipstream.gateway.exchange import Exchange
from slipstream.gateway.observability import families
from slipstream.gateway.openai.chat import ChatRequest
from slipstream.gateway.openai.completions import CompletionRequest
from slipstream.gateway.routing.fallback import answering_model
from slipstream.gateway.served_model import ServedModel
from slipstream.gateway.services import Services
from slipstream.gateway.tools.forms import ToolParserSetting, tool_form
from slipstream.spec import ComplexitySpec

CLASS_HEADER = "x-slipstream-model-class"
BUDGET_HEADER = "x-slipstream-budget"
ROUTE_HEADER = "x-slipstream-route"

_BYTES_OF_A_CHARACTER = 4  # at most
_BYTES_AROUND_A_TURN = 256  # more than chat templates write around a question and its answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Where a request goes, and why."""

    size: Size  # that is needed
    model: ServedModel  # of another size where that one is not to be had
    why: Literal["judged", "forced"]
    reason: str


def choose_model(
    exchange: Exchange, headers: Mapping[str, str], request: ChatRequest | CompletionRequest, services: Services
) -> ServedModel:
    """The model that `request` names, or the one that its difficulty needs; `ApiError` where there is none.

    `headers` are those that the request came with, in lower case.
    """
    spec = services.spec.complexity
    if spec is None or request.model != spec.name:
        return answering_model(request.model, services, exchange)
    choice = decide(headers, request, services, spec)
    exchange.headers[CLASS_HEADER] = choice.size
    exchange.headers[ROUTE_HEADER] = f"{choice.size}; model={choice.model.name}; reason={choice.reason}"
    exchange.record.route_reason = f"{choice.size} {choice.why}"
    services.metrics.count(families.COMPLEXITY, choice.size, choice.model.name, choice.why)
    return choice.model


def decide(
    headers: Mapping[str, str], request: ChatRequest | CompletionRequest, services: Services, spec: ComplexitySpec
) -> Choice:
    """The model for a request: of the size it needs, else a larger one, else a smaller one."""
    forced = headers.get(CLASS_HEADER)
    verdict = judge(ask_of(request, budget_of(headers)))
    size = verdict.size if forced is None else _size(forced)
    served = {model.name: model for model in services.models.all()}
    candidates = [served[name] for name in _names(spec, size) if name in served]
    if not candidates:
        message = f"model: none of the models behind {spec.name!r} is there for this caller"
        raise ApiError(404, message, param="model", code="model_not_found")
    return Choice(
        size=size,
        model=_best(candidates, request, services.spec.tool_parser),
        why="judged" if forced is None else "forced",
        reason=verdict.reason if forced is None else "forced",
    )


def ask_of(request: ChatRequest | CompletionRequest, budget: Budget = "normal") -> Ask:
    """What the classifier looks at of a request."""
    form = request.response_format
    has_schema = form is not None and form.type == "json_schema"
    if isinstance(request, CompletionRequest):
        texts = [request.prompt] if isinstance(request.prompt, str) else request.prompt
        task = "\n".join(text for text in texts if isinstance(text, str))
        return Ask(task=task, has_schema=has_schema, max_tokens=request.max_tokens, budget=budget)
    messages = [(message.role, str(message.for_template()["content"])) for message in request.messages]
    said = [text for role, text in messages if role == "user"]
    task = said[-1] if said else messages[-1][1]
    return Ask(
        task=task,
        context_chars=sum(len(text) for _, text in messages) - len(task),
        user_turns=len(said),
        tools=len(request.tools or ()),
        has_schema=has_schema,
        max_tokens=request.max_completion_tokens or request.max_tokens,
        budget=budget,
    )


def budget_of(headers: Mapping[str, str]) -> Budget:
    """What the caller would rather save: money (low) or a second try (high)."""
    given = headers.get(BUDGET_HEADER, "normal")
    for budget in get_args(Budget):
        if given == budget:
            return budget  # type: ignore[no-any-return]
    raise ApiError(400, f"{BUDGET_HEADER}: is low, normal or high", param=BUDGET_HEADER)


def _size(text: str) -> Size:
    for size in SIZES:
        if text == size:
            return size
    raise ApiError(400, f"{CLASS_HEADER}: is small, medium or large", param=CLASS_HEADER)


def _names(spec: ComplexitySpec, size: Size) -> list[str]:
    """The model of `size`, then the larger ones, then the smaller ones, the nearest first."""
    at = SIZES.index(size)
    sizes = (*SIZES[at:], *reversed(SIZES[:at]))
    return [{"small": spec.small, "medium": spec.medium, "large": spec.large}[one] for one in sizes]


def _best(
    candidates: Sequence[ServedModel], request: ChatRequest | CompletionRequest, parser: ToolParserSetting
) -> ServedModel:
    """The first that the prompt fits and that is up; where it fits none, the first one's refusal says by how much."""
    fitting = [model for model in candidates if _has_room(model, request, parser)]
    return next((model for model in fitting if model.backends.is_up), (fitting or candidates)[0])


def _has_room(model: ServedModel, request: ChatRequest | CompletionRequest, parser: ToolParserSetting) -> bool:
    ask = ask_of(request)
    most_tokens = _BYTES_OF_A_CHARACTER * (len(ask.task) + ask.context_chars) + _BYTES_AROUND_A_TURN * ask.user_turns
    if most_tokens < model.max_input_tokens:  # a token is a byte at least
        return True
    try:
        if isinstance(request, ChatRequest):
            request.wanted(model, tool_form(parser, model.template))
        else:
            request.wanted(model)
    except ApiError as error:
        return error.code != "context_length_exceeded"
    return True
