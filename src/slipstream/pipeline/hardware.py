"""The GPU that a deployment names, from the planner's catalogue."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slipstream.errors import SpecError
from slipstream.spec import DeploymentSpec
from slipstream.spec_file import did_you_mean

if TYPE_CHECKING:
    from slipstream.plan.catalogue import Gpu


def the_gpu(spec: DeploymentSpec) -> Gpu | None:
    """What `hardware.gpu` names, or None where the deployment does not say; SpecError for an unknown name."""
    if spec.hardware is None:
        return None
    from slipstream.plan.catalogue import gpus, known_gpu

    gpu = known_gpu(spec.hardware.gpu)
    if gpu is None:
        names = [known.name for known in gpus()]
        raise SpecError(
            f"{spec.name}: hardware.gpu is {spec.hardware.gpu!r}, which is not in the catalogue"
            f"{did_you_mean(spec.hardware.gpu, names)}",
            mend=f"name one of: {', '.join(names)}",
        )
    return gpu
