"""Who goes next: shares follow weights, priorities go first, and nobody waits for ever."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from slipstream.gateway.caller import Caller, Priority
from slipstream.gateway.queueing.fair_order import FairOrder, Waiting

AGING_S = 10.0


def a_caller(name: str, weight: float = 1.0, priority: Priority = "normal") -> Caller:
    return Caller(id=name, name=name, weight=weight, priority=priority)


def waiting(caller: Caller, cost: int = 100, since: float = 0.0) -> Waiting:
    return Waiting(caller=caller, cost=cost, since=since)


def serve(order: FairOrder, now: float = 0.0) -> Waiting:
    first = order.first(now)
    assert first is not None
    order.take(first)
    return first


costs = st.integers(1, 4000)
weights = st.sampled_from([0.5, 1.0, 2.0, 3.0, 10.0])


@given(st.lists(st.tuples(weights, st.lists(costs, min_size=2, max_size=8)), min_size=2, max_size=6), st.data())
def test_no_caller_that_waits_is_ahead_of_another_by_more_than_a_request_of_each(
    callers: list[tuple[float, list[int]]], data: st.DataObject
) -> None:
    order = FairOrder(AGING_S)
    everyone = [a_caller(str(number), weight) for number, (weight, _) in enumerate(callers)]
    largest = [max(of_one) for _, of_one in callers]
    for caller, (_, of_one) in zip(everyone, callers, strict=True):
        for cost in of_one:
            order.add(waiting(caller, cost))
    given_to = dict.fromkeys(everyone, 0)
    for _ in range(60):
        served = serve(order)
        given_to[served.caller] += served.cost
        number = int(served.caller.id)
        order.add(waiting(served.caller, data.draw(st.integers(1, largest[number]))))  # so that all wait always
        for one, two in ((one, two) for one in everyone for two in everyone if one is not two):
            lead = given_to[one] / one.weight - given_to[two] / two.weight
            assert lead <= largest[int(one.id)] / one.weight + largest[int(two.id)] / two.weight + 1e-6


@given(st.lists(st.tuples(st.sampled_from("abc"), costs), max_size=40))
def test_requests_of_one_caller_are_served_in_the_order_in_which_they_came(requests: list[tuple[str, int]]) -> None:
    order = FairOrder(AGING_S)
    came = [waiting(a_caller(name), cost) for name, cost in requests]
    for request in came:
        order.add(request)
    served = [serve(order) for _ in came]
    for name in "abc":
        assert [one for one in served if one.caller.id == name] == [one for one in came if one.caller.id == name]
    assert order.count == order.cost == 0


def test_a_high_priority_is_served_before_all_others() -> None:
    order = FairOrder(AGING_S)
    low, normal, high = (waiting(a_caller(name, priority=name)) for name in ("low", "normal", "high"))
    for request in (low, normal, high):
        order.add(request)
    assert [serve(order) for _ in range(3)] == [high, normal, low]


@given(st.integers(1, 5), costs, st.sampled_from([0.5, 1.0, 4.0]))
def test_a_low_priority_is_served_though_high_ones_never_stop_coming(callers: int, cost: int, step_s: float) -> None:
    order = FairOrder(AGING_S)
    low = waiting(a_caller("low", priority="low"), cost)
    order.add(low)
    high = [a_caller(f"high-{number}", priority="high") for number in range(callers)]
    for caller in high:
        order.add(waiting(caller))
    now = 0.0
    while (served := serve(order, now)) is not low:
        now += step_s
        assert now <= 2 * AGING_S + (callers + 1) * step_s
        order.add(waiting(served.caller, since=now))


@given(st.integers(1, 20), costs, costs)
def test_a_caller_is_served_again_though_new_ones_never_stop_coming(crowd: int, cost: int, of_others: int) -> None:
    order = FairOrder(AGING_S)
    caller = a_caller("regular", priority="high")
    order.add(waiting(caller, cost))
    serve(order)
    again = waiting(caller, cost)
    order.add(again)
    for number in range(crowd):
        order.add(waiting(a_caller(str(number), priority="high"), of_others))
    served = 0
    while serve(order) is not again:
        served += 1
        order.add(waiting(a_caller(str(crowd + served), priority="high"), of_others))
        assert served <= (crowd + 1) * (cost / of_others + 2)


@given(st.lists(st.tuples(st.sampled_from(["high", "normal", "low"]), costs, st.booleans()), max_size=60))
def test_whoever_leaves_is_gone_and_all_others_are_served(requests: list[tuple[Priority, int, bool]]) -> None:
    order = FairOrder(AGING_S)
    came = [waiting(a_caller(f"{number % 5}-{one[0]}", priority=one[0]), one[1]) for number, one in enumerate(requests)]
    for request in came:
        order.add(request)
    order.first(AGING_S)  # some have moved up
    stays = [request for request, (_, _, leaves) in zip(came, requests, strict=True) if not leaves]
    for request in came:
        if request not in stays:
            order.remove(request)
    assert order.count == len(stays)
    assert order.cost == sum(request.cost for request in stays)
    assert {id(serve(order, AGING_S)) for _ in stays} == {id(request) for request in stays}
    assert order.first(AGING_S) is None


def test_a_pause_earns_nothing() -> None:
    order = FairOrder(AGING_S)
    busy, idle = a_caller("busy"), a_caller("idle")
    for _ in range(20):
        order.add(waiting(busy))
        serve(order)
    for caller in (busy, idle):
        for _ in range(4):
            order.add(waiting(caller))
    assert sorted(serve(order).caller.id for _ in range(4)) == ["busy", "busy", "idle", "idle"]


def test_who_asks_for_more_than_he_takes_is_charged_for_what_he_takes() -> None:
    order = FairOrder(AGING_S)
    callers = {"exact": a_caller("exact"), "lavish": a_caller("lavish")}
    asked = {"exact": 100, "lavish": 1000}
    for name, caller in callers.items():
        for _ in range(2):
            order.add(waiting(caller, asked[name]))
    served = []
    for _ in range(100):
        one = serve(order)
        name = one.caller.id
        order.add(waiting(one.caller, asked[name]))
        order.give_back(one, asked[name] - 100)
        served.append(name)
    assert abs(served.count("exact") - served.count("lavish")) <= 2


def test_what_is_given_back_to_who_was_away_meanwhile_buys_no_lead() -> None:
    order = FairOrder(AGING_S)
    hoarder, other = a_caller("hoarder"), a_caller("other")
    order.add(waiting(hoarder, 100_000))
    huge = serve(order)
    for _ in range(1001):
        order.add(waiting(other))
        serve(order)
    for caller in (hoarder, other):
        for _ in range(10):
            order.add(waiting(caller))
    order.give_back(huge, 99_900)
    assert abs([serve(order).caller.id for _ in range(10)].count("other") - 5) <= 1


def test_callers_that_have_gone_are_forgotten() -> None:
    order = FairOrder(AGING_S)
    for number in range(5000):
        order.add(waiting(a_caller(str(number))))
        serve(order)
    assert sum(len(level.flows) for level in order._levels) < 200
