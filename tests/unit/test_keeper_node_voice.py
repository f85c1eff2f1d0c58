from __future__ import annotations

import pytest

from appliance.keeper.node_voice import NodeVoice
from appliance.keeper.nodes_protocol import Claim, Claims, NodeEnded, Unclaim
from appliance.keeper.protocol import Order, decode_order
from appliance.wire.errors import Busy
from tests.unit.test_keeper_nodes_protocol import process

A, B = "AI.a@north", "AI.b@north"


class Planes:
    """Planes that read, until one is told not to."""

    def __init__(self) -> None:
        self.present = {"data", "control"}
        self.deaf: set[str] = set()
        self.got: list[tuple[str, Order]] = []
        self.voice = NodeVoice("data", self.send, self.present.__contains__)

    def send(self, plane: str, data: bytes) -> bool:
        if plane in self.deaf or plane not in self.present:
            return False
        self.got.append((plane, decode_order(data)))
        return True


def claim(name: str, pid: int = 7) -> Claim:
    return Claim(name=name, pid=pid, token_sha256="ab")


def test_ends_are_told_to_followers_only() -> None:
    planes = Planes()
    planes.voice.ended(process(A), 0.0)
    planes.voice.follow("control")
    planes.voice.ended(process(B), 0.0)
    assert planes.got == [("control", NodeEnded(process=process(B)))]
    assert planes.voice.next_deadline() is None
    assert planes.voice.events_sent == 1


def test_an_end_waits_for_a_follower_that_does_not_read() -> None:
    planes = Planes()
    planes.voice.follow("control")
    planes.deaf.add("control")
    planes.voice.ended(process(A, pid=1), 0.0)
    planes.voice.ended(process(A, pid=2), 0.0)
    assert planes.voice.events_waiting == 1
    due = planes.voice.next_deadline()
    assert due is not None
    planes.deaf.clear()
    planes.voice.tick(due - 0.01)
    assert planes.got == []
    planes.voice.tick(due)
    assert planes.got == [("control", NodeEnded(process=process(A, pid=2)))]
    assert planes.voice.next_deadline() is None


def test_a_plane_that_ended_follows_no_more() -> None:
    planes = Planes()
    planes.voice.follow("control")
    planes.deaf.add("control")
    planes.voice.ended(process(A), 0.0)
    planes.voice.plane_ended("control")
    assert planes.voice.events_waiting == 0
    planes.voice.tick(9.0)
    assert planes.voice.next_deadline() is None


def test_a_claim_goes_to_the_routing_plane_before_anything_else() -> None:
    planes = Planes()
    assert planes.voice.claim(claim(A)) is None
    assert planes.got == [("data", Claims(claims=(claim(A),)))]
    assert planes.voice.claim(claim(A, 8)) == claim(A, 7)


def test_a_claim_that_the_router_does_not_take_is_refused() -> None:
    planes = Planes()
    planes.deaf.add("data")
    with pytest.raises(Busy):
        planes.voice.claim(claim(A))
    introduced: list[bytes] = []
    planes.voice.introduce(lambda data: bool(introduced.append(data)) or True)
    assert introduced == []


def test_without_a_routing_plane_claims_wait_for_its_start() -> None:
    planes = Planes()
    planes.present.discard("data")
    planes.voice.claim(claim(A))
    planes.voice.claim(claim(B))
    planes.voice.unclaim(B, 0.0)
    introduced: list[Order] = []

    def send(data: bytes) -> bool:
        introduced.append(decode_order(data))
        return True

    planes.voice.introduce(send)
    assert introduced == [Claims(claims=(claim(A),))]
    assert planes.voice.claims_sent == 1
    assert planes.voice.next_deadline() is None


def test_an_unclaim_is_said_until_it_is_taken() -> None:
    planes = Planes()
    planes.voice.claim(claim(A))
    planes.deaf.add("data")
    planes.voice.unclaim(A, 0.0)
    due = planes.voice.next_deadline()
    assert due is not None
    planes.deaf.clear()
    planes.voice.tick(due)
    assert planes.got[-1] == ("data", Unclaim(name=A))
    planes.voice.unclaim(A, 1.0)
    assert len(planes.got) == 2


def test_a_new_claim_overtakes_a_waiting_unclaim() -> None:
    planes = Planes()
    planes.voice.claim(claim(A))
    planes.deaf.add("data")
    planes.voice.unclaim(A, 0.0)
    planes.deaf.clear()
    planes.voice.claim(claim(A, 9))
    planes.voice.tick(9.0)
    assert planes.got[-1] == ("data", Claims(claims=(claim(A, 9),)))


def test_a_start_that_failed_gives_the_name_back() -> None:
    planes = Planes()
    older = planes.voice.claim(claim(A))
    planes.voice.take_back(A, older, 0.0)
    assert planes.got[-1] == ("data", Unclaim(name=A))
    planes.voice.claim(claim(B, 1))
    planes.voice.take_back(B, planes.voice.claim(claim(B, 2)), 0.0)
    assert planes.got[-1] == ("data", Claims(claims=(claim(B, 1),)))


def test_an_ended_process_leaves_its_name_shut_until_the_next_claim() -> None:
    planes = Planes()
    planes.voice.shut(A, 0.0)
    assert planes.got == []
    planes.voice.claim(claim(A))
    planes.voice.shut(A, 0.0)
    (word,) = planes.got[-1][1].claims
    assert (word.name, word.pid, word.cgroup, len(word.token_sha256)) == (A, 0, "", 64)
    planes.got.clear()
    planes.voice.introduce(lambda data: planes.send("data", data))
    assert planes.got == [("data", Claims(claims=(word,)))]
    assert planes.voice.claim(claim(A, 8)) == word


def test_claims_that_a_new_router_does_not_take_at_once_follow() -> None:
    planes = Planes()
    names = [f"AI.n{number}@north" for number in range(300)]
    for name in names:
        planes.voice.claim(claim(name))
    planes.got.clear()
    room = [True, True, False, False, False]
    planes.voice.introduce(lambda data: room.pop(0) and planes.send("data", data))
    assert planes.voice.next_deadline() is not None
    planes.voice.tick(0.0)
    told = [one.name for _, order in planes.got for one in order.claims]
    assert sorted(told) == sorted(names)
    assert planes.voice.next_deadline() is None
