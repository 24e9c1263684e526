"""Text in, text out: the three other models called from Python instead of an ensemble.

Rendered by `slipstream render`; the code is in `slipstream.backend.bls`.
"""

from slipstream.backend.bls import BusinessLogic as TritonPythonModel

__all__ = ["TritonPythonModel"]
