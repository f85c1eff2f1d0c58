from __future__ import annotations

import trio
import trio.testing

from appliance.app.planes import _claims_of
from appliance.keeper.nodes_protocol import Claim, Claims, Unclaim
from appliance.keeper.plane import PlaneContext
from appliance.keeper.protocol import encode
from appliance.keeper.trio_plane import TrioPlane
from appliance.router.claims import token_digest
from appliance.router.connection import Peer
from appliance.system.channel import Channel

NAME = "AI.a@north"
STRANGER = Peer(pid=1)


def test_what_the_keeper_says_reaches_the_router() -> None:
    ours, theirs = Channel.pair()

    async def main() -> None:
        keeper = TrioPlane(PlaneContext(name="data", channel=theirs, eventfds={}))
        async with trio.open_nursery() as nursery:
            await nursery.start(keeper.run)
            claims = _claims_of(keeper)
            assert not claims.allows(NAME, STRANGER, "")
            assert claims.allows(NAME, STRANGER, token_digest("secret"))
            ours.send(encode(Unclaim(name=NAME)))
            await trio.testing.wait_all_tasks_blocked()
            assert claims.allows(NAME, STRANGER, "")
            nursery.cancel_scope.cancel()

    with ours, theirs:
        claim = Claim(name=NAME, pid=2**22 + 1, token_sha256=token_digest("secret"))
        ours.send(encode(Claims(claims=(claim,))))
        trio.run(main)
