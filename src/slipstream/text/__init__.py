"""Text in and out of token ids: shared by Triton's Python backend, the gateway and the client."""
