"""Talk to a served model over Triton gRPC: one pure core, a blocking and an async shell.

with TritonClient("127.0.0.1:8001") as client:
    for chunk in client.stream("Once upon a time", max_tokens=64):
        print(chunk.text, end="", flush=True)
"""

from slipstream.client.aio import AsyncStream, AsyncTritonClient
from slipstream.client.blocking import Stream, TritonClient
from slipstream.client.requests import TextRequest, TokenRequest
from slipstream.client.values import Chunk, Completion, Finish, Guide, Sampling

__all__ = [
    "AsyncStream",
    "AsyncTritonClient",
    "Chunk",
    "Completion",
    "Finish",
    "Guide",
    "Sampling",
    "Stream",
    "TextRequest",
    "TokenRequest",
    "TritonClient",
]
