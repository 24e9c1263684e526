"""The link between `tensorrt_llm_bls` and the embedded engine's model: what they say to each other, and where.

A BLS call through Triton's Python backend (2.51) has three locks that can wait for each other as soon as one call
begins while another streams: `exec` holds Python's lock and waits for the table of iterators, the thread that brings
responses holds that table and waits for an iterator, and whoever reads that iterator waits for Python's lock. Both
processes then stand still for ever. Besides, each response takes two hops more. So on the embedded server the two
models, which are children of the same server on the same machine, speak over a socket of their own.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from slipstream.backend.requests import ALONE, Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """To the engine: the tensors of a request to `tensorrt_llm`. `number` is unique for one connection."""

    number: int
    tensors: dict[str, NDArray[Any]]
    outputs: frozenset[str]  # wanted beside the tokens
    parameters: Mapping[str, str]  # of Triton's request
    timeout_us: int


@dataclass(frozen=True, slots=True)
class Withdraw:
    """To the engine: nobody waits for this request any more; its end still comes."""

    number: int


@dataclass(frozen=True, slots=True)
class Answer:
    """From the engine: one response of a request, or its failure."""

    number: int
    ids: list[int] = field(default_factory=list)  # of the best beam
    other_beams: list[list[int]] = field(default_factory=list)
    place: Place = ALONE
    others: dict[str, NDArray[Any]] = field(default_factory=dict)
    failure: str = ""
    is_tokens: bool = True  # false: a failure, or the bare end
    is_final: bool = False  # nothing follows


def link_address(server_process_id: int, model: str) -> str:
    """The abstract address at which `model` of this server listens; it has no file that could be left."""
    return f"\0slipstream-{server_process_id}-{model}"


def is_sibling(connection: socket.socket, server_process_id: int) -> bool:
    """The process at the other end is a child of the same server, and of the same user."""
    import psutil

    size = struct.calcsize("3i")
    process_id, user_id, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    try:
        return bool(user_id == os.getuid() and psutil.Process(process_id).ppid() == server_process_id)
    except psutil.Error:
        return False
