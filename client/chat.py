"""A conversation in the terminal.

python client/chat.py [HOST:PORT] [MODEL_DIRECTORY]
"""

import sys
from pathlib import Path

from slipstream.client import TritonClient
from slipstream.client.terminal import converse
from slipstream.errors import SlipstreamError
from slipstream.text.chat_template import ChatTemplate

address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8001"
directory = Path(sys.argv[2] if len(sys.argv) > 2 else "build/smollm2-135m-cpu/model")

try:
    template = ChatTemplate.load(directory)  # Triton takes plain text: the model's chat template is applied here
    with TritonClient(address) as client:
        converse(client, template.render, 128, sys.stdin, sys.stdout)
except SlipstreamError as error:
    sys.exit(str(error))
