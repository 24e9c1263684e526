"""What one connection to the gateway may take, and how long."""

from __future__ import annotations

from pydantic import Field

from slipstream.spec.groups import Group


class ConnectionSpec(Group):
    """Limits on connections and on requests before they are understood."""

    max_connections: int = Field(4096, ge=1, le=1_000_000, description="one more is answered with 503 and closed")
    max_header_bytes: int = Field(32_768, ge=1024, le=1 << 20, description="address and headers of a request")
    max_headers: int = Field(100, ge=8, le=10_000, description="headers of a request")
    max_bodies_bytes: int = Field(
        256 << 20,
        ge=1 << 20,
        le=1 << 40,
        description="of all bodies that are being read; more is 503",
    )
    max_json_depth: int = Field(64, ge=4, le=512, description="objects and arrays inside each other")
    header_timeout_s: float = Field(10, gt=0, le=600, description="from the first byte to the end of the headers")
    body_timeout_s: float = Field(60, gt=0, le=3600, description="from the end of the headers to the end of the body")
    idle_timeout_s: int = Field(60, ge=1, le=3600, description="how long a connection may wait for its next request")
    write_timeout_s: float = Field(
        30, gt=0, le=3600, description="a client that takes none of its answer for so long is given up"
    )
    send_buffer_bytes: int = Field(
        131_072, ge=4096, le=1 << 26, description="of an answer that its client has not read, in the kernel"
    )
