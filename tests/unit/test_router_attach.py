"""Taking over a plane's end of a socketpair: while the shell serves, and after it has shut."""

from __future__ import annotations

import socket

import trio

from appliance.router.config import EngineSettings
from appliance.router.connection import Peer
from appliance.router.engine import Engine
from appliance.router.listen import listen_for_nodes
from appliance.router.shell import Shell
from appliance.router.threads import ThreadCounters
from tests.router_kit import ROUTER_NAME, ROUTER_UUID, Bounds, Turns


def make_shell(directory):
    settings = EngineSettings(hive="north", router_uuid=ROUTER_UUID, router_name=ROUTER_NAME)
    engine = Engine(settings, threads=ThreadCounters(Bounds()), turns=Turns())
    return Shell(engine, listen_for_nodes(directory, ROUTER_UUID, mode=0o600, group="nobody"))


def test_an_end_that_comes_after_the_shell_has_shut_is_closed(hive_folder):
    async def body():
        shell = make_shell(hive_folder)
        with trio.move_on_after(0.01):
            await shell.run()
        ours, theirs = socket.socketpair()
        with ours:
            shell.attach(theirs, Peer(plane="control"))
            assert ours.recv(1) == b""
        assert not shell.engine.connections

    trio.run(body)


def test_an_attached_end_is_served_as_the_appliance_itself(hive_folder):
    async def body():
        shell = make_shell(hive_folder)
        ours, theirs = socket.socketpair()
        with ours:
            shell.attach(theirs, Peer(plane="control"))
            (connection,) = shell.engine.connections
            assert connection.peer.plane == "control"
            with trio.move_on_after(0.01):
                await shell.run()
            assert ours.recv(1) == b""  # cancelling closes every socket

    trio.run(body)
