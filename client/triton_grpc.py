"""NVIDIA's own client on the `ensemble` model: nothing of Slipstream is needed.

python client/triton_grpc.py [HOST:PORT] [PROMPT]
"""

import queue
import sys

import numpy as np
import tritonclient.grpc as triton

address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8001"
prompt = sys.argv[2] if len(sys.argv) > 2 else "The capital of France is"


def tensor(name: str, value: object, kind: type, datatype: str) -> triton.InferInput:
    return triton.InferInput(name, [1, 1], datatype).set_data_from_numpy(np.array([[value]], dtype=kind))


inputs = [
    tensor("text_input", prompt, object, "BYTES"),
    tensor("max_tokens", 24, np.int32, "INT32"),
    tensor("stream", True, bool, "BOOL"),  # noqa: FBT003
]
answers = queue.Queue()
try:
    with triton.InferenceServerClient(address) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        client.async_stream_infer("ensemble", inputs, request_id="1", enable_empty_final_response=True)
        for result, error in iter(lambda: answers.get(timeout=60), None):
            if error:
                raise error
            if (text := result.as_numpy("text_output")) is not None:
                print(text.flatten()[0].decode(), end="", flush=True)
            if result.get_response().parameters["triton_final_response"].bool_param:
                break
    print()
except triton.InferenceServerException as error:
    sys.exit(f"{address}: {error}")
