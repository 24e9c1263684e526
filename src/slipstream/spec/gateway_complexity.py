"""A model by the difficulty of the request."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from slipstream.spec.groups import Group

_ModelName = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[\x21-\x7e]+$")]


class ComplexitySpec(Group):
    """Requests that ask for the model `name` go to one of three by difficulty; two of them may be the same."""

    name: _ModelName = Field("auto", description="what clients ask for; not the name of a deployment")
    small: _ModelName = Field(description="served model for one-step tasks")
    medium: _ModelName = Field(description="served model for tasks of a few steps")
    large: _ModelName = Field(description="served model for tasks of many dependent steps")
