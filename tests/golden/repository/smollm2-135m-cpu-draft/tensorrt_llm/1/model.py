"""The embedded CPU engine behind the tensors of TensorRT-LLM's C++ backend.

Rendered by `slipstream render`; the code is in `slipstream.backend.engine_model`.
"""

from slipstream.backend.engine_model import EngineModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
