"""Several backends behind one model: which one answers, which are up, and what happens when one goes away."""

from slipstream.gateway.routing.backend import BackendStatus
from slipstream.gateway.routing.backends import Backends
from slipstream.gateway.routing.routed_stream import RoutedStream

__all__ = ["BackendStatus", "Backends", "RoutedStream"]
