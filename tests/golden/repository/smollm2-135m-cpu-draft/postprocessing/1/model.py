"""Token ids in, text out.

Rendered by `slipstream render`; the code is in `slipstream.backend.postprocessing`.
"""

from slipstream.backend.postprocessing import Postprocessing as TritonPythonModel

__all__ = ["TritonPythonModel"]
