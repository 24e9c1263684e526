"""Finished iterators of BLS calls are kept until Triton's thread is known to be done with them."""

from __future__ import annotations

import weakref

from slipstream.backend.kept_responses import KeptResponses


class Iterator:
    """As Triton's: iterable, and destroyed when the last reference goes."""

    def __iter__(self) -> Iterator:
        return self

    def __next__(self) -> None:
        raise StopIteration


def kept_in(kept: KeptResponses) -> weakref.ref[Iterator]:
    iterator = Iterator()
    kept.keep(iterator)
    return weakref.ref(iterator)


def test_an_iterator_is_let_go_after_an_answer() -> None:
    kept = KeptResponses()
    iterator = kept_in(kept)
    kept.release(lambda: True)
    assert iterator() is None


def test_an_iterator_stays_where_nothing_was_asked() -> None:
    kept = KeptResponses()
    iterator = kept_in(kept)
    kept.release(lambda: False)
    assert iterator() is not None


def test_an_iterator_that_ended_after_the_question_stays() -> None:
    kept = KeptResponses()
    later: list[weakref.ref[Iterator]] = []

    def is_answered() -> bool:
        later.append(kept_in(kept))
        return True

    before = kept_in(kept)
    kept.release(is_answered)
    assert before() is None
    assert later[0]() is not None


def test_after_a_minute_an_iterator_is_let_go_without_an_answer() -> None:
    times = iter([0.0, 30.0, 61.0])
    kept = KeptResponses(lambda: next(times))
    first, second, _ = (kept_in(kept) for _ in range(3))
    assert first() is None
    assert second() is not None
