"""The draft model of speculation, on the embedded CPU engine.

Rendered by `slipstream render`; the code is in `slipstream.backend.engine_model`.
"""

from slipstream.backend.engine_model import EngineModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
