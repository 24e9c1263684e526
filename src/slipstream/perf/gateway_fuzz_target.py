"""A gateway to be fuzzed, in a process of its own, with a Triton beside it that answers every request with one token.

python -m slipstream.perf.gateway_fuzz_target PORT
"""

from __future__ import annotations

import asyncio
import struct
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import uvicorn
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, pre_tokenizers
from tritonclient.grpc import service_pb2, service_pb2_grpc

from slipstream.gateway.app import create_app
from slipstream.gateway.listening import uvicorn_config
from slipstream.gateway.redaction import redact_logs
from slipstream.gateway.routing import Backends
from slipstream.gateway.served_model import ServedModel
from slipstream.gateway.services import Models, Services
from slipstream.spec import GatewaySpec
from slipstream.text.chat_template import ChatTemplate
from slipstream.text.tokenizer import Tokenizer

MODEL = "fuzzed"
_TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"


class _OneToken(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    async def ModelStreamInfer(self, requests: AsyncIterator[Any], _: Any) -> AsyncIterator[Any]:  # noqa: N802
        async for request in requests:
            message = service_pb2.ModelStreamInferResponse()
            response = message.infer_response
            response.model_name, response.id = request.model_name, request.id
            response.parameters["triton_final_response"].bool_param = True
            for name, shape, value in (("output_ids", [1, 1, 1], 5), ("sequence_length", [1, 1], 1)):
                response.outputs.add(name=name, datatype="INT32", shape=shape)
                response.raw_output_contents.append(struct.pack("<i", value))
            yield message


async def serve(port: int) -> None:
    """Serve until the process is ended."""
    redact_logs()
    triton = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_OneToken(), triton)
    triton_port = triton.add_insecure_port("127.0.0.1:0")
    await triton.start()
    spec = GatewaySpec()
    model = ServedModel(
        name=MODEL,
        tokenizer=_byte_tokenizer(),
        template=ChatTemplate(_TEMPLATE, special_tokens={}),
        max_input_tokens=2000,
        context_tokens=2048,
        backends=Backends([f"127.0.0.1:{triton_port}"], spec.routing),
    )
    app = create_app(Services(spec=spec, models=Models([model])))
    await uvicorn.Server(uvicorn_config(app, spec, host="127.0.0.1", port=port, root=Path())).serve()


def _byte_tokenizer() -> Tokenizer:
    """Every byte is a token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    fast = FastTokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    return Tokenizer(fast, bos_id=None, eos_ids=(0,), pad_id=None)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
