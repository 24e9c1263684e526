"""The texts of a request to the BLS model: of each of its generations, and of each beam."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from slipstream.backend.bls_call import Part
from slipstream.backend.bls_text import OutputText
from slipstream.backend.requests import Place


class OutputTexts:
    """Turns the engine's parts into the texts to send, one a beam.

    The parts of a stream continue the text of their generation. A part that is a whole output, and every part with
    beams, which may change as they grow, is decoded by itself.
    """

    def __init__(self, new_text: Callable[[], OutputText], *, are_wholes: bool) -> None:
        self._new_text = new_text
        self._are_wholes = are_wholes
        self._texts: dict[Place, OutputText] = {}

    def push(self, part: Part) -> list[str]:
        """The texts to send for `part`."""
        if self._are_wholes or part.other_beams:
            return [self._whole(ids) for ids in (part.ids, *part.other_beams)]
        return [self._texts.setdefault(part.place, self._new_text()).push(part.ids)]

    def rests(self) -> Iterator[tuple[Place, str]]:
        """What is still to be sent at the end, and of which generation."""
        for place, text in self._texts.items():
            if rest := text.finish():
                yield place, rest

    def _whole(self, ids: list[int]) -> str:
        text = self._new_text()
        return text.push(ids) + text.finish()
