"""The queue in front of a model: never more inside than there is room for, and nobody is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.gateway.caller import Caller, Priority
from slipstream.gateway.errors import ApiError
from slipstream.gateway.queueing.capacity import Capacity, capacity_of
from slipstream.gateway.queueing.fair_queue import FairQueue, Place
from slipstream.spec import GatewayAdmissionSpec
from slipstream.spec_file import load_deployment
from tests.conftest import ROOT
from tests.unit.limit_steps import Clock

ROOM = Capacity(kv_tokens=1000, choices=4)


def enter(
    queue: FairQueue, caller: str = "a", tokens: int = 100, choices: int = 1, deadline_at: float | None = None
) -> asyncio.Task[Place]:
    who = Caller(id=caller, name=caller)
    return asyncio.create_task(queue.enter(who, kv_tokens=tokens, choices=choices, deadline_at=deadline_at))


async def settled() -> None:
    """Every task has gone as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def refused(entering: Awaitable[Place]) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await entering
    return caught.value


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(scenario())  # type: ignore[arg-type]


def inside(tasks: list[asyncio.Task[Place]]) -> list[Place]:
    return [task.result() for task in tasks if task.done()]


def forget_the_refused(tasks: list[asyncio.Task[Place]]) -> None:
    tasks[:] = [task for task in tasks if not task.cancelled() and not (task.done() and task.exception())]


actions = st.lists(
    st.tuples(st.sampled_from(["come", "come", "end", "leave"]), st.integers(0, 9), st.integers(1, 1500)), max_size=60
)


@given(actions)
def test_there_is_never_more_inside_than_there_is_room_for_and_all_get_their_turn(
    steps: list[tuple[str, int, int]],
) -> None:
    async def scenario() -> None:
        queue = FairQueue(ROOM, GatewayAdmissionSpec(max_waiting=5))
        tasks: list[asyncio.Task[Place]] = []

        async def end(number: int) -> None:
            place = inside(tasks)[number % len(inside(tasks))]
            tasks.remove(next(task for task in tasks if task.done() and task.result() is place))
            queue.leave(place, unused_tokens=place.kv_tokens // 2)

        for action, number, tokens in steps:
            if action == "come":
                tasks.append(enter(queue, str(number % 3), tokens, 1 + number % 3))
            elif action == "end" and inside(tasks):
                await end(number)
            elif action == "leave" and tasks:
                tasks[number % len(tasks)].cancel()  # before, while or after his turn has come
            if number % 2:
                await settled()
                forget_the_refused(tasks)
                places = inside(tasks)
                assert queue.running_tokens == sum(place.kv_tokens for place in places)
                assert queue.running_tokens <= 1000 or len(places) == 1
                assert queue.running_choices == sum(place.choices for place in places) <= 4 or len(places) == 1
                assert queue.waiting == len(tasks) - len(places)
            forget_the_refused(tasks)
        await settled()
        forget_the_refused(tasks)
        while tasks:
            await end(0)
            await settled()
        assert (queue.waiting, queue.running_tokens, queue.running_choices) == (0, 0, 0)

    run(scenario)


def test_a_large_request_is_not_passed_by_small_ones() -> None:
    async def scenario() -> None:
        queue = FairQueue(ROOM, GatewayAdmissionSpec())
        first = await enter(queue, "a", 600)
        large, small = enter(queue, "b", 900), enter(queue, "c", 100)
        await settled()
        assert not large.done()
        assert not small.done()
        queue.leave(first)
        await settled()
        assert large.done()
        assert small.done()

    run(scenario)


def test_a_request_larger_than_the_engine_runs_alone() -> None:
    async def scenario() -> None:
        queue = FairQueue(ROOM, GatewayAdmissionSpec())
        huge = await enter(queue, tokens=5000)
        other = enter(queue, tokens=1)
        await settled()
        assert not other.done()
        queue.leave(huge)
        await other

    run(scenario)


def test_nothing_waits_where_nothing_is_known_of_the_room() -> None:
    async def scenario() -> None:
        queue = FairQueue(Capacity(), GatewayAdmissionSpec())
        for _ in range(100):
            await enter(queue, tokens=10**6)
        assert (queue.running_choices, queue.waiting) == (100, 0)

    run(scenario)


def test_a_full_queue_says_when_what_waits_is_gone_at_the_speed_that_was_measured() -> None:
    async def scenario() -> None:
        clock = Clock()
        queue = FairQueue(Capacity(choices=1), GatewayAdmissionSpec(max_waiting=3), clock=clock)
        waiting = [enter(queue) for _ in range(14)]
        await settled()
        assert (await refused(waiting.pop())).headers["retry-after"] == "1"  # nothing is known yet
        for task in waiting[4:]:
            await refused(task)
        for task in waiting[:4]:
            place = await task
            clock.now_s += 20
            queue.leave(place)  # 100 tokens in 20 s
        waiting = [enter(queue) for _ in range(4)]
        await settled()
        error = await refused(enter(queue))
        assert (error.status, error.code, error.headers["retry-after"]) == (429, "queue_full", "60")

    run(scenario)


def test_a_caller_who_crowds_the_queue_makes_place_for_others() -> None:
    async def scenario() -> None:
        queue = FairQueue(Capacity(choices=1), GatewayAdmissionSpec(max_waiting=4))
        await enter(queue, "greedy")
        greedy = [enter(queue, "greedy") for _ in range(4)]
        await settled()
        modest = [enter(queue, "modest") for _ in range(2)]
        for displaced in (greedy[3], greedy[2]):
            assert (await refused(displaced)).code == "queue_full"
        for one_too_many in (enter(queue, "modest"), enter(queue, "greedy")):
            assert (await refused(one_too_many)).status == 429
        assert queue.waiting == 4
        assert not any(task.done() for task in (*greedy[:2], *modest))

    run(scenario)


def test_in_a_full_queue_a_higher_priority_takes_the_place_of_a_lower_one() -> None:
    async def scenario() -> None:
        queue = FairQueue(Capacity(choices=1), GatewayAdmissionSpec(max_waiting=2))

        def of(priority: Priority) -> asyncio.Task[Place]:
            caller = Caller(id=priority, name=priority, priority=priority)
            return asyncio.create_task(queue.enter(caller, kv_tokens=1, choices=1))

        await of("low")
        low = [of("low") for _ in range(2)]
        await settled()
        high = [of("high") for _ in range(2)]
        for displaced in low:
            await refused(displaced)
        for late in (of("low"), of("normal"), of("high")):
            await refused(late)
        assert not any(task.done() for task in high)

    run(scenario)


def test_idle_time_does_not_slow_the_measured_speed() -> None:
    async def scenario() -> None:
        clock = Clock()
        queue = FairQueue(ROOM, GatewayAdmissionSpec(), clock=clock)
        for _ in range(5):
            place = await enter(queue, tokens=100)
            clock.now_s += 1
            queue.leave(place)
            clock.now_s += 1000
        assert queue.drain.tokens_per_s == pytest.approx(100)

    run(scenario)


def test_a_deadline_that_passes_in_the_queue_ends_the_request_there() -> None:
    async def scenario() -> None:
        clock = Clock()
        queue = FairQueue(Capacity(choices=1), GatewayAdmissionSpec(), clock=clock)
        place = await enter(queue)
        late, patient = enter(queue, deadline_at=clock() + 0.01), enter(queue, "b")
        error = await refused(late)
        assert (error.status, error.code) == (504, "deadline_exceeded")
        assert queue.waiting == 1
        queue.leave(place)
        await patient
        assert (await refused(enter(queue, deadline_at=clock() - 1))).status == 504

    run(scenario)


def test_whoever_waits_longer_than_the_queue_allows_is_refused() -> None:
    async def scenario() -> None:
        queue = FairQueue(Capacity(choices=1), GatewayAdmissionSpec(queue_timeout_s=0.01))
        await enter(queue)
        error = await refused(enter(queue))
        assert (error.status, error.code, error.headers["retry-after"]) == (503, "queue_timeout", "1")

    run(scenario)


def test_while_no_server_is_up_nobody_waits_for_a_turn() -> None:
    async def scenario() -> None:
        is_up = True
        queue = FairQueue(Capacity(choices=1), is_up=lambda: is_up)
        running = await enter(queue)
        waits = enter(queue)
        await settled()
        is_up = False
        await enter(queue)
        assert waits.done()
        queue.leave(running)
        is_up = True
        late = enter(queue)
        await settled()
        assert not late.done()

    run(scenario)


def test_other_settings_let_in_who_waited_for_room() -> None:
    async def scenario() -> None:
        spec = GatewayAdmissionSpec()
        queue = FairQueue(Capacity(choices=1), spec)
        await enter(queue)
        waits = enter(queue)
        await settled()
        assert not waits.done()
        queue.use(Capacity(choices=2), spec, lambda: True)
        await waits

    run(scenario)


def test_the_room_of_a_deployment_is_its_cache_and_a_little_more_than_its_batch() -> None:
    deployment = load_deployment("smollm2-135m-cpu", ["runtime.kv_cache_tokens=4096"], root=ROOT)
    batch = deployment.engine.max_batch_size
    assert capacity_of(deployment, servers=2) == Capacity(kv_tokens=8192, choices=-(-2 * batch * 9 // 8))
    own = GatewayAdmissionSpec(kv_tokens=100, max_running=3)
    assert capacity_of(deployment).with_settings(own) == Capacity(kv_tokens=100, choices=3)
