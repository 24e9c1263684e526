"""Text in, token ids out.

Rendered by `slipstream render`; the code is in `slipstream.backend.preprocessing`.
"""

from slipstream.backend.preprocessing import Preprocessing as TritonPythonModel

__all__ = ["TritonPythonModel"]
