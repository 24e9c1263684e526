"""The model that answers for another one, none of whose backends is up."""

from __future__ import annotations

from slipstream.gateway.exchange import Exchange
from slipstream.gateway.served_model import ServedModel
from slipstream.gateway.services import Services

FALLBACK_HEADER = "x-slipstream-fallback"


def answering_model(name: str, services: Services, exchange: Exchange) -> ServedModel:
    """The model called `name`, or the first of its fallbacks that is up and that the caller may use.

    The answer names a fallback in a header. With none of them up it is the model itself, which then says so.
    """
    model = services.models[name]
    if model.backends.is_up or name not in services.spec.fallbacks:
        return model
    known = {other.name: other for other in services.models.all()}
    for other in services.spec.fallbacks[name]:
        if other in known and exchange.caller.may_use(other) and known[other].backends.is_up:
            exchange.headers[FALLBACK_HEADER] = other
            return known[other]
    return model
