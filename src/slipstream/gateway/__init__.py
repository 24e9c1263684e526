"""The OpenAI-compatible front of a deployment: HTTP in, token streams from Triton behind it."""
