"""JSON of any form inside a request, that can be written again as it is."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from pydantic import AfterValidator


def _writable(value: dict[str, Any]) -> dict[str, Any]:
    """Python reads more than JSON can hold: half a surrogate pair, and integers of any length."""
    try:
        orjson.dumps(value)
    except TypeError as error:
        raise ValueError(f"cannot be written as JSON: {error}") from error
    return value


JsonObject = Annotated[dict[str, Any], AfterValidator(_writable)]
Labels = Annotated[dict[str, str], AfterValidator(_writable)]
