"""Many replies at once over one connection.

python client/async_stream.py [HOST:PORT]
"""

import asyncio
import sys

from slipstream.client import AsyncTritonClient
from slipstream.errors import SlipstreamError

PROMPTS = ("The capital of France is", "Water boils at", "The opposite of hot is", "Two plus two is")


async def reply(client: AsyncTritonClient, prompt: str) -> None:
    """Print the chunks of one reply behind its prompt; cancelling the task cancels the request."""
    stream = client.stream(prompt, max_tokens=16)
    async for chunk in stream:
        print(f"{prompt!r} +{chunk.at_ms:.0f} ms {chunk.text!r}", flush=True)
    print(f"{prompt!r} {stream.completion.output_tokens} tokens", flush=True)


async def main(address: str) -> None:
    """Ask all questions at the same time."""
    async with AsyncTritonClient(address) as client:
        await asyncio.gather(*(reply(client, prompt) for prompt in PROMPTS))


try:
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8001"))
except SlipstreamError as error:
    sys.exit(str(error))
