"""The gRPC method and the channel settings that both shells use."""

from __future__ import annotations

from typing import Any

from slipstream.errors import SlipstreamError

DEFAULT_ADDRESS = "127.0.0.1:8001"
STREAM_INFER = "/inference.GRPCInferenceService/ModelStreamInfer"
SERVER_LIVE = "/inference.GRPCInferenceService/ServerLive"
DEFAULT_DEADLINE_S = 600.0  # a stream whose model process was killed would otherwise never end
DEFAULT_CONNECT_TIMEOUT_S = 1.0
CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", 2**31 - 1),  # Triton's own limit; gRPC's 4 MiB is less than one row of logits
    ("grpc.max_send_message_length", 2**31 - 1),
    ("grpc.initial_reconnect_backoff_ms", 50),  # as patient as our own retries, not gRPC's 1 s to 120 s
    ("grpc.min_reconnect_backoff_ms", 1000),  # gRPC also gives a handshake this long, which a busy server needs
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),  # else clients of one process share a connection and its backoff
]


def stream_method(channel: Any) -> Any:
    """`ModelStreamInfer` for one request a stream, on a blocking or an async channel.

    Triton declares it as a stream of requests. Called with a single one the bytes are the same, the stream is
    half-closed at once, so that Triton ends it, and gRPC needs no thread or task to feed it.
    """
    from tritonclient.grpc import service_pb2

    return channel.unary_stream(
        STREAM_INFER,
        request_serializer=service_pb2.ModelInferRequest.SerializeToString,  # the reply reads the bytes itself
    )


def checked_address(address: str) -> str:
    """`address` if it reads host:port."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in address:
        raise SlipstreamError(
            f"{address}: is not the address of a gRPC server", mend=f"write host:port, as {DEFAULT_ADDRESS}"
        )
    return address
