"""Which backend takes a request: bounded load, prompts that stay where their cache is, and little movement."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from slipstream.gateway.routing.affinity import Homes, prefix_keys, ranked, session_key
from slipstream.gateway.routing.breaker import Breaker
from slipstream.gateway.routing.choice import Bound, choose

ADDRESSES = ["10.0.0.1:8001", "10.0.0.2:8001", "10.0.0.3:8001"]
BOUND = Bound(factor=1.5, slack_tokens=1000)
loads_of_some = st.dictionaries(st.sampled_from([f"b{n}" for n in range(8)]), st.integers(0, 100_000), min_size=1)


def prompt(seed: int, tokens: int) -> tuple[int, ...]:
    return tuple(random.Random(seed).choices(range(50_000), k=tokens))


@given(loads=loads_of_some, cost=st.integers(1, 10_000), data=st.data())
def test_a_backend_over_the_bound_is_chosen_only_as_the_least_busy(
    loads: dict[str, int], cost: int, data: st.DataObject
) -> None:
    preferred = data.draw(st.permutations(sorted(loads)))
    chosen = choose(loads, preferred, cost=cost, bound=BOUND)
    assert loads[chosen] + cost <= BOUND.of(loads, cost) or loads[chosen] == min(loads.values())
    passed_over = preferred[: preferred.index(chosen)]
    assert all(loads[one] + cost > BOUND.of(loads, cost) for one in passed_over)


@given(loads=loads_of_some, cost=st.integers(1, 10_000))
def test_without_a_preference_the_least_busy_is_chosen(loads: dict[str, int], cost: int) -> None:
    assert loads[choose(loads, [], cost=cost, bound=BOUND)] == min(loads.values())


@given(key=st.binary(min_size=1, max_size=16), gone=st.sampled_from(ADDRESSES))
def test_a_backend_that_goes_moves_only_its_own_keys(key: bytes, gone: str) -> None:
    rest = [address for address in ADDRESSES if address != gone]
    assert ranked(key, rest) == [address for address in ranked(key, ADDRESSES) if address != gone]


def test_keys_are_spread_evenly_over_backends() -> None:
    firsts = [ranked(number.to_bytes(4, "big"), ADDRESSES)[0] for number in range(3000)]
    assert all(850 < firsts.count(address) < 1150 for address in ADDRESSES)


def test_a_new_backend_takes_its_share_and_no_more() -> None:
    keys = [number.to_bytes(4, "big") for number in range(2000)]
    moved = [key for key in keys if ranked(key, ADDRESSES)[0] != ranked(key, [*ADDRESSES, "new:1"])[0]]
    assert 400 < len(moved) < 600
    assert {ranked(key, [*ADDRESSES, "new:1"])[0] for key in moved} == {"new:1"}


@given(shared=st.integers(0, 700), rest=st.integers(1, 300), block=st.sampled_from([1, 16, 64]))
def test_prompts_share_the_keys_of_what_they_share(shared: int, rest: int, block: int) -> None:
    head = prompt(0, shared)
    one = prefix_keys(head + prompt(1, rest), block)
    other = prefix_keys(head + prompt(2, rest), block)
    common = [key for key in one if key in other]
    lengths = [block << number for number in range(9)]
    assert common == one[: sum(length <= shared for length in lengths)]


def test_a_short_prompt_has_no_key() -> None:
    assert prefix_keys(prompt(0, 63), 64) == []
    assert len(prefix_keys(prompt(0, 100_000), 64)) == 9


def test_a_session_belongs_to_its_caller() -> None:
    assert session_key("one", "s") == session_key("one", "s")
    assert session_key("one", "s") != session_key("other", "s")


def test_the_longest_known_beginning_says_where_home_is() -> None:
    homes, keys = Homes(), prefix_keys(prompt(0, 512), 64)
    homes.settle(keys[:2], "a", {"a", "b"})
    homes.settle(keys, "b", {"a", "b"})
    assert homes.find(keys[:2], {"a", "b"}) == "a"
    assert homes.find(keys, {"a", "b"}) == "b"
    assert homes.find(keys, {"a"}) == "a"


def test_the_memory_of_homes_is_bounded() -> None:
    homes = Homes(limit=3)
    for number in range(10):
        homes.settle([bytes([number])], "a", {"a"})
    assert [number for number in range(10) if homes.find([bytes([number])], {"a"})] == [7, 8, 9]


def test_conversations_stay_on_their_backend_under_load() -> None:
    """300 conversations of eight turns, 60 at a time on three backends: nearly every turn finds its cache."""
    dice, homes = random.Random(7), Homes()
    loads = dict.fromkeys(ADDRESSES, 0)
    at_home = turns = 0
    running: list[tuple[str, int]] = []
    history = {number: prompt(number, 200) for number in range(300)}
    last: dict[int, str] = {}
    for _ in range(8):
        for number in dice.sample(sorted(history), len(history)):
            ids = history[number] = history[number] + prompt(dice.randrange(10**6), dice.randrange(20, 400))
            keys = prefix_keys(ids, 64)
            home = homes.find(keys, loads)
            preferred = ([home] if home else []) + ranked(keys[0], loads)
            chosen = choose(loads, preferred, cost=len(ids) + 256, bound=BOUND)
            homes.settle(keys, chosen, loads)
            turns += number in last
            at_home += last.get(number) == chosen
            last[number] = chosen
            loads[chosen] += len(ids) + 256
            running.append((chosen, len(ids) + 256))
            if len(running) > 60:
                address, cost = running.pop(dice.randrange(len(running)))
                loads[address] -= cost
            assert max(loads.values()) <= BOUND.of(loads, 0) + 4000
    assert at_home / turns >= 0.95


def a_breaker(**changes: float) -> Breaker:
    settings = {"failures": 3, "error_rate": 0.5, "window": 8, "open_s": 2.0, **changes}
    return Breaker(**settings)  # type: ignore[arg-type]


def test_failures_in_a_row_open_the_breaker_and_a_success_between_them_does_not() -> None:
    breaker = a_breaker()
    for _ in range(2):
        breaker.fail(0)
    breaker.succeed()
    breaker.fail(0)
    assert not breaker.is_open
    breaker.fail(10)
    breaker.fail(10)
    assert breaker.is_open
    assert breaker.trial_at == 12


def test_a_share_of_failures_opens_the_breaker() -> None:
    breaker = a_breaker()
    for _ in range(3):
        breaker.succeed()
        breaker.fail(0)
    assert not breaker.is_open
    breaker.succeed()
    breaker.fail(0)
    assert breaker.is_open


def test_trials_become_rarer_until_one_succeeds() -> None:
    breaker = a_breaker()
    breaker.trip(0)
    pauses = [breaker.trial_at]
    for _ in range(6):
        breaker.trial_failed(0)
        pauses.append(breaker.trial_at)
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    breaker.close()
    breaker.trip(0)
    assert breaker.trial_at == 0.1
