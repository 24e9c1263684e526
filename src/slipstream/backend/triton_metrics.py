"""Triton's metric families, made by name and kind."""

from __future__ import annotations

from typing import Any, Literal

MetricKind = Literal["gauge", "counter", "histogram"]


def triton_family(name: str, description: str, kind: MetricKind) -> Any:
    """A family on Triton's /metrics; the stub process crashes at its end when its metrics are left."""
    import triton_python_backend_utils as pb_utils

    kinds = {
        "gauge": pb_utils.MetricFamily.GAUGE,
        "counter": pb_utils.MetricFamily.COUNTER,
        "histogram": pb_utils.MetricFamily.HISTOGRAM,
    }
    return pb_utils.MetricFamily(name=name, description=description, kind=kinds[kind])
