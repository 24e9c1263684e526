"""Text as it is generated, with a seed and a stop word.

python client/stream.py [HOST:PORT] [PROMPT]
"""

import sys

from slipstream.client import Sampling, TritonClient
from slipstream.errors import SlipstreamError

address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8001"
prompt = sys.argv[2] if len(sys.argv) > 2 else "The three primary colours are"
sampling = Sampling(temperature=0.7, top_k=40, top_p=0.95, seed=7)

try:
    # Leaving the with block early, or Ctrl-C, cancels the request on the server.
    with (
        TritonClient(address) as client,
        client.stream(prompt, max_tokens=48, sampling=sampling, stop=("\n\n",), deadline_s=60) as chunks,
    ):
        for chunk in chunks:
            print(chunk.text, end="", flush=True)
        print(f"\n{chunks.completion}", file=sys.stderr)
except SlipstreamError as error:
    sys.exit(str(error))
