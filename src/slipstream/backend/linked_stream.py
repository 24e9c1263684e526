"""One request of the BLS model over the link to the engine."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping

from slipstream.backend.bls_answer import TextAnswer
from slipstream.backend.bls_call import Part
from slipstream.backend.link import Answer
from slipstream.backend.link_client import Asked, LinkClient
from slipstream.backend.tensors import Tensors
from slipstream.backend.triton import TextReply

# The mark of calls through Triton: the link needs none.
_MARK_INPUT = "prompt_table_extra_ids"


class LinkedStream:
    """Hands the engine's answers to the reply, on the link's thread."""

    def __init__(self, answer: TextAnswer, reply: TextReply, *, over: Callable[[], None]) -> None:
        self._answer = answer
        self._reply = reply
        self._over = over
        self._asked: Asked | None = None
        self._failure = ""
        self._is_stopped = False

    def begin(
        self,
        link: LinkClient,
        tensors: Tensors,
        outputs: frozenset[str],
        *,
        parameters: Mapping[str, str],
        timeout_us: int,
    ) -> None:
        """Ask the engine; `EngineFailedError` when it cannot be reached."""
        tensors = {name: tensor for name, tensor in tensors.items() if name != _MARK_INPUT}
        try:
            self._asked = link.ask(tensors, self, outputs=outputs, parameters=parameters, timeout_us=timeout_us)
        except BaseException:
            self._over()
            raise

    def take(self, answer: Answer) -> None:
        """Send what came on; whatever goes wrong with it is this client's alone."""
        try:
            self._take(answer)
        except Exception as error:  # noqa: BLE001 - on the thread of all streams, which must go on
            traceback.print_exc()
            self._reply.fail(f"{type(error).__name__}: {error}")
        if answer.is_final:
            self._over()

    def lose(self, reason: str) -> None:
        """The engine's process is gone."""
        self._over()
        self._reply.fail(reason)

    def stop_if_abandoned(self) -> None:
        """End the generation, once, when its client has gone away."""
        if not self._is_stopped and self._asked is not None and self._reply.is_cancelled():
            self._is_stopped = True
            self._asked.withdraw()

    def _take(self, answer: Answer) -> None:
        if not answer.is_tokens:
            self._failure = answer.failure or self._failure
        elif not self._is_stopped:
            self._answer.push(Part(answer.ids, False, answer.others, answer.other_beams, answer.place))  # noqa: FBT003
        if not answer.is_final:
            return
        if self._failure:
            self._reply.refuse(self._failure)
        else:
            self._answer.finish()
