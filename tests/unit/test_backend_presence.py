"""The watch of a request of the ensemble: it speaks while the generation is silent, and ends before it."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from slipstream.backend.postprocessing import read_rows
from slipstream.backend.presence import Presence, Presences, beat_tensors
from slipstream.backend.trailer import call_marker, ensemble_marker, is_watch, read_mark, read_presence_id
from tests.unit.engine_bench import Bench, FakeReply, a_request

LONG_S = 3600.0


class Watch:
    def __init__(self) -> None:
        self.sent: list[object] = []
        self.has_ended = False

    def send(self, response: object) -> None:
        assert not self.has_ended
        self.sent.append(response)

    def end(self) -> None:
        assert not self.has_ended
        self.has_ended = True


def nothing() -> None:
    pass


def entered(presences: Presences, presence_id: int = 7) -> tuple[Presence, Watch]:
    presence, watch = presences.enter(presence_id), Watch()
    presences.attach(presence_id, watch)
    return presence, watch


def test_a_silent_generation_beats_and_one_with_news_does_not() -> None:
    presence, watch = entered(Presences())
    presence.beat(lambda: "beat", 0.0)
    presence.beat(lambda: "too soon", LONG_S)
    presence.touch()
    presence.beat(lambda: "too soon after a token", LONG_S)
    assert watch.sent == ["beat"]


def test_the_watch_ends_with_its_generation_and_is_silent_then() -> None:
    presences = Presences()
    presence, watch = entered(presences)
    presence.end(nothing)
    presence.beat(lambda: "late", 0.0)
    assert watch.has_ended
    assert watch.sent == []


def test_the_watch_of_several_prompts_ends_with_the_last() -> None:
    presences = Presences()
    first, watch = entered(presences)
    second = presences.enter(7)
    first.end(nothing)
    assert not watch.has_ended
    second.end(nothing)
    assert watch.has_ended


def test_a_watch_of_a_generation_that_is_over_or_was_refused_ends_at_once() -> None:
    presences, late, lost = Presences(), Watch(), Watch()
    presences.enter(7).end(nothing)
    presences.attach(7, late)
    presences.attach(8, lost)
    assert late.has_ended
    assert lost.has_ended


def test_the_last_response_waits_for_the_watch_to_come_and_end() -> None:
    presences, watch, said = Presences(), Watch(), list[str]()
    presences.enter(7).end(lambda: said.append(f"the watch has ended: {watch.has_ended}"))
    assert said == []
    presences.attach(7, watch)
    assert said == ["the watch has ended: True"]
    presence, _ = entered(presences, 8)
    presence.end(lambda: said.append("at once"))
    assert said[1:] == ["at once"]


def test_a_watch_that_does_not_come_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slipstream.backend.presence._LATE_S", 0.01)
    answered = threading.Event()
    presences = Presences()
    presences.enter(7).end(answered.set)
    assert answered.wait(5)


def test_beats_become_rare_where_there_are_many() -> None:
    presences = Presences()
    few = presences.quiet_s
    for number in range(100):
        presences.enter(number)
    assert presences.quiet_s > few


def test_a_beat_holds_no_token_and_names_its_generation() -> None:
    tensors = beat_tensors(5)
    named = {"TOKENS_BATCH": tensors["output_ids"], "SEQUENCE_LENGTH": tensors["sequence_length"]}
    (row,) = read_rows(named)
    assert row.ids == []
    assert row.trailer is not None
    assert row.trailer.handle == 5


def test_the_marks_tell_the_ensembles_request_its_watch_and_a_bls_call_apart() -> None:
    extra_ids = ensemble_marker()
    watch = {"prompt_table_extra_ids": extra_ids}
    request = {**watch, "end_id": np.array([[2]], np.int32)}
    call = {"prompt_table_extra_ids": call_marker()}
    assert (is_watch(watch), is_watch(request), is_watch(call), is_watch({})) == (True, False, False, False)
    assert read_presence_id(request) == read_presence_id(watch) == int(extra_ids[1])
    assert read_presence_id(call) is None
    assert read_mark(request) is not None
    assert ensemble_marker()[1] != extra_ids[1]


def test_requests_of_the_ensemble_are_not_asked_about_but_given_an_occasion() -> None:
    bench, through_ensemble, direct = Bench(), FakeReply(), FakeReply()
    handle = bench.engine.submit(a_request(trailer=True), through_ensemble)
    bench.engine.submit(a_request(), direct)
    through_ensemble.cancelled = True
    for check in bench.engine.checks():
        check()
    assert (through_ensemble.beats, direct.beats) == ([handle], [])
    bench.engine.close()
