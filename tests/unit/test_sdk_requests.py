from __future__ import annotations

import pytest

from appliance.sdk.requests import LATE_MEMORY, Pending, Requests, is_router_error, router_error
from appliance.wire.envelope import Message, build_message, system_message
from appliance.wire.errors import Conflict, Unavailable, Unreachable

ME = "11111111-1111-4111-8111-111111111111"
PEER = "22222222-2222-4222-8222-222222222222"
ROUTER = "33333333-3333-4333-8333-333333333333"


def ask(dst: str = "SY.timer@h", verb: str = "TIMER_NOW") -> Message:
    return system_message(src=ME, dst=dst, verb=verb)


def answer(request: Message, verb: str = "TIMER_RESPONSE", src: str = PEER) -> Message:
    return system_message(src=src, dst=ME, verb=verb, trace_id=request.routing.trace_id)


def refused(request: Message, verb: str = "UNREACHABLE", **payload: str) -> Message:
    return system_message(
        src=ROUTER, dst=ME, verb=verb, trace_id=request.routing.trace_id, payload=payload or None
    )


class Waiter:
    def __init__(self, requests: Requests, request: Message, *verbs: str) -> None:
        self.woken = 0
        self.pending = Pending(request, frozenset(verbs) or None, self.wake)
        requests.add(self.pending)

    def wake(self) -> None:
        self.woken += 1


def test_a_reply_reaches_its_request_once() -> None:
    requests, first, second = Requests(), ask(), ask()
    one, two = Waiter(requests, first), Waiter(requests, second)
    reply = answer(second)
    assert requests.offer(reply, ME)
    assert (two.pending.result, two.woken, one.woken) == (reply, 1, 0)
    assert not requests.offer(answer(second), ME)  # a further message of that trace is ordinary
    assert requests.answered == 1


def test_what_nobody_waits_for_is_left_alone() -> None:
    requests = Requests()
    Waiter(requests, ask())
    assert not requests.offer(build_message(src=PEER, dst=ME), ME)


def test_only_the_wanted_verbs_match() -> None:
    requests, request = Requests(), ask()
    waiter = Waiter(requests, request, "TIMER_RESPONSE", "PONG")
    assert not requests.offer(answer(request, "OTHER"), ME)
    assert waiter.woken == 0
    assert requests.offer(answer(request, "PONG"), ME)


@pytest.mark.parametrize(
    ("verb", "payload", "code", "word"),
    [
        ("UNREACHABLE", {"original_dst": "AI.x@h", "reason": "NODE_NOT_FOUND"}, "NODE_NOT_FOUND", "AI.x@h"),
        ("UNREACHABLE", {"original_dst": "AI.x@h", "reason": "VPN_BLOCKED"}, "VPN_BLOCKED", "AI.x@h"),
        ("TTL_EXCEEDED", {"original_dst": "AI.x@h", "last_hop": "router:1"}, "TTL_EXCEEDED", "router:1"),
        ("UNREACHABLE", {}, "UNREACHABLE", "destination"),
    ],
)
def test_router_errors_end_a_request(verb: str, payload: dict[str, str], code: str, word: str) -> None:
    requests, request = Requests(), ask()
    waiter = Waiter(requests, request, "TIMER_RESPONSE")
    assert requests.offer(refused(request, verb, **payload), ME)
    error = waiter.pending.result
    assert isinstance(error, Unreachable)
    assert error.code == code
    assert word in error.message
    assert requests.refused == 1


def test_a_router_error_with_a_strange_payload_still_ends_it() -> None:
    message = system_message(src=ROUTER, dst=ME, verb="UNREACHABLE", payload=[1])
    assert is_router_error(message)
    assert router_error(message).code == "UNREACHABLE"


def test_a_request_to_oneself_is_not_its_own_reply() -> None:
    requests, request = Requests(), ask(dst="AI.me@h")
    waiter = Waiter(requests, request)
    assert not requests.offer(request, ME)
    assert waiter.woken == 0
    assert requests.offer(answer(request, src=ME), ME)


def test_a_late_reply_is_counted_and_not_delivered() -> None:
    requests, request = Requests(), ask()
    waiter = Waiter(requests, request)
    requests.remove(waiter.pending)
    requests.remove(waiter.pending)
    assert requests.offer(answer(request), ME)
    assert (requests.late, len(requests)) == (1, 0)


def test_the_memory_of_late_replies_is_bounded() -> None:
    requests = Requests()
    first = ask()
    requests.remove(Waiter(requests, first).pending)
    for _ in range(LATE_MEMORY):
        requests.remove(Waiter(requests, ask()).pending)
    assert not requests.offer(answer(first), ME)


def test_one_trace_waits_once() -> None:
    requests, request = Requests(), ask()
    first = Waiter(requests, request)
    with pytest.raises(Conflict):
        Waiter(requests, request)
    requests.remove(Pending(request, None, lambda: None))  # the loser's clean-up must not remove the winner
    assert len(requests) == 1
    requests.remove(first.pending)
    assert len(requests) == 0


def test_abort_ends_all_that_wait() -> None:
    requests, done, waiting = Requests(), ask(), ask()
    finished, open_one = Waiter(requests, done), Waiter(requests, waiting)
    requests.offer(answer(done), ME)
    requests.abort(Unavailable("closed"))
    assert isinstance(open_one.pending.result, Unavailable)
    assert isinstance(finished.pending.result, Message)
    assert (finished.woken, open_one.woken) == (1, 1)
