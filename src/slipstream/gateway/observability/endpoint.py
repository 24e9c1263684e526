"""`/metrics` on the API's own port, where endpoint pickers look for it."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.responses import Response

from slipstream.gateway.observability.metrics import TEXT_TYPE
from slipstream.gateway.services import Services


def add_metrics_page(app: FastAPI, services: Services) -> None:
    """Serve the page unless the spec says otherwise."""
    if not services.spec.observability.metrics:
        return

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        of_triton = b"" if services.triton_metrics is None else await services.triton_metrics.page()
        return Response(services.metrics.page() + of_triton, headers={"content-type": TEXT_TYPE})
