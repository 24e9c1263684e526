"""Guides are tried once each, in order, and requests that wait can be stopped."""

from __future__ import annotations

from collections.abc import Iterator
from queue import Queue

import pytest

from slipstream.backend.guide import Guide
from slipstream.backend.guide_checks import GuideChecks, Verdict
from slipstream.backend.tensors import RequestRefusedError
from slipstream.errors import SlipstreamError

WAIT_S = 10.0


class FakeProcess:
    """Answers a guide when the test says what."""

    def __init__(self) -> None:
        self.tried: Queue[str] = Queue()
        self.answers: Queue[str | SlipstreamError] = Queue()
        self.is_closed = False

    def refusal(self, guide: Guide) -> str:
        self.tried.put(guide.text)
        answer = self.answers.get(timeout=WAIT_S)
        if isinstance(answer, SlipstreamError):
            raise answer
        return answer

    def kill(self) -> None:
        self.answers.put("killed")

    def close(self) -> None:
        self.is_closed = True


class Checks:
    def __init__(self) -> None:
        self.process = FakeProcess()
        self.checks = GuideChecks(self.process)
        self.verdicts: Queue[Verdict] = Queue()

    def settle(self, text: str, request_id: str = "") -> None:
        self.checks.settle(Guide(kind="regex", text=text), request_id, self.verdicts.put)

    def verdict(self, answer: str | SlipstreamError) -> Verdict:
        self.process.answers.put(answer)
        return self.verdicts.get(timeout=WAIT_S)


@pytest.fixture
def checks() -> Iterator[Checks]:
    made = Checks()
    yield made
    made.checks.close()


def test_a_verdict_is_remembered_good_or_bad(checks: Checks) -> None:
    for text, answer, said in (("a", "", ""), ("(", "not closed", "cannot follow this regex: not closed")):
        checks.settle(text)
        first = checks.verdict(answer)
        assert first.refusal.endswith(said)
        checks.settle(text)
        assert checks.verdicts.get_nowait() == first, "at once, and not tried again"
    assert checks.process.tried.qsize() == 2


def test_what_could_not_be_tried_is_tried_again(checks: Checks) -> None:
    checks.settle("a")
    assert checks.verdict(SlipstreamError("it did not start", mend="")).refusal == "it did not start"
    checks.settle("a")
    assert not checks.verdict("").refusal


def test_a_stop_reaches_the_requests_of_its_id_that_wait(checks: Checks) -> None:
    checks.settle("a", "1")
    checks.settle("b", "2")
    checks.checks.stop("2")
    assert not checks.verdict("").is_stopped
    assert checks.verdict("").is_stopped
    checks.settle("c", "2")
    assert not checks.verdict("").is_stopped, "a request that came after the stop"


def test_only_so_many_wait(checks: Checks) -> None:
    for number in range(64):
        checks.settle(str(number))
    with pytest.raises(RequestRefusedError, match="64 guides wait to be compiled, the limit is 64"):
        checks.settle("one more")


def test_closing_refuses_what_waits_and_ends_the_process() -> None:
    checks = Checks()
    checks.settle("a")
    checks.settle("b")
    checks.process.tried.get(timeout=WAIT_S)
    checks.checks.close()
    refusals = [checks.verdicts.get_nowait().refusal for _ in range(2)]
    assert refusals == ["the model is being unloaded"] * 2
    assert checks.process.is_closed
