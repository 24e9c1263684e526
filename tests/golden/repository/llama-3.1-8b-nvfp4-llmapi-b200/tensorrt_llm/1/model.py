"""Text in, text out: TensorRT-LLM's LLM API behind its Triton tensors.

Rendered by `slipstream render`; the code is in `slipstream.backend.llmapi_model`.
"""

from slipstream.backend.llmapi_model import LlmApiModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
