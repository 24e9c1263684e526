"""Triton's HTTP endpoint with the standard library: one whole reply is /generate, a streamed one /generate_stream.

python client/triton_http.py [HOST:PORT] [PROMPT]
"""

import json
import sys
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8000"
prompt = sys.argv[2] if len(sys.argv) > 2 else "The capital of France is"
body = {"text_input": prompt, "max_tokens": 24, "stream": True}
request = Request(
    f"http://{address}/v2/models/ensemble/generate_stream",
    data=json.dumps(body).encode(),
    headers={"Content-Type": "application/json"},
)

try:
    with urlopen(request, timeout=60) as events:  # noqa: S310 - an http:// address
        for line in events:  # server-sent events: one line `data: {…}` each
            if line.startswith(b"data:"):
                event = json.loads(line.removeprefix(b"data:"))
                if "error" in event:  # Triton has sent status 200 by then
                    sys.exit(event["error"])
                print(event["text_output"], end="", flush=True)
    print()
except HTTPError as error:
    sys.exit(f"{address}: {error.code} {error.read().decode()}")
except URLError as error:
    sys.exit(f"{address}: nothing answers there ({error.reason}); start it: slipstream up smollm2-135m-cpu")
