"""``fluxbee selfcheck``: does every library that the program needs work in *this* program, frozen or not?

PyInstaller leaves out what no import statement names: C extensions, a library opened by path, a backend
found at run time. So each check uses its library for something small and real instead of just importing it.
No hive is touched; what is written lies in a temporary folder.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import msgspec

from .frame import Verbs, add_json_argument, add_verb
from .output import ExitCode, print_json, print_table

__all__ = ["CHECKS", "ModuleCheck", "add_parser", "check_modules"]


def add_parser(verbs: Verbs) -> None:
    """Add ``selfcheck``."""
    parser = add_verb(
        verbs,
        "selfcheck",
        _selfcheck,
        summary="use every library once: is this program complete?",
        examples=[
            ("fluxbee selfcheck", "after building or copying the program"),
            ("fluxbee selfcheck --json", "for a script"),
        ],
        details="Needs no running hive and changes nothing. Ends with 1 when a library does not work.",
    )
    add_json_argument(parser)


class ModuleCheck(msgspec.Struct, frozen=True, kw_only=True):
    """One library.

    Attributes:
        name: as in `docs/dependencies.md`.
        version: the installed version, or `-` where the bundle carries no metadata.
        error: what went wrong; ``None`` means that it works.
    """

    name: str
    version: str
    error: str | None


def _trio() -> None:
    import trio

    async def wait() -> None:
        with trio.move_on_after(1):
            await trio.lowlevel.checkpoint()

    trio.run(wait)


def _anyio() -> None:
    import anyio

    async def wait() -> None:
        await anyio.lowlevel.checkpoint()

    anyio.run(wait, backend="trio")


def _msgspec() -> None:
    if msgspec.json.decode(msgspec.json.encode({"a": [1, None]})) != {"a": [1, None]}:
        raise RuntimeError("JSON did not survive")


def _lmdb() -> None:
    from tempfile import TemporaryDirectory

    import lmdb

    if "lmdb.cpython" not in sys.modules:
        raise RuntimeError("the C extension is missing")
    # Opening imports more than importing does: the C extension asks for Python modules then.
    with TemporaryDirectory() as folder, lmdb.open(folder, map_size=1 << 20, max_dbs=1) as environment:
        table = environment.open_db(b"table")
        with environment.begin(write=True, db=table) as transaction:
            transaction.put(b"hive", b"bee")
        with environment.begin(db=table) as transaction:
            if transaction.get(b"hive") != b"bee":
                raise RuntimeError("the record did not survive")


def _cbor2() -> None:
    from datetime import UTC, datetime
    from decimal import Decimal
    from fractions import Fraction
    from ipaddress import IPv4Address
    from uuid import UUID

    import cbor2

    # Tags make the extension import more: numbers, addresses, mail.
    told = [
        b"\x00",
        datetime(2000, 1, 1, tzinfo=UTC),
        Decimal("0.1"),
        Fraction(1, 3),
        UUID(int=1),
        IPv4Address(1),
    ]
    if cbor2.loads(cbor2.dumps(told)) != told:
        raise RuntimeError("CBOR did not survive")


def _pyzmq() -> None:
    import zmq

    if not zmq.has("curve"):
        raise RuntimeError("libzmq was built without CURVE")
    zmq.curve_keypair()
    with zmq.Context() as context, context.socket(zmq.ROUTER) as one, context.socket(zmq.DEALER) as other:
        one.bind("inproc://selfcheck")
        other.connect("inproc://selfcheck")
        other.send(b"hive")
        if one.poll(1000) == 0 or one.recv_multipart()[-1] != b"hive":
            raise RuntimeError("the message did not arrive")


def _cryptography() -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    key = Ed25519PrivateKey.generate()
    key.public_key().verify(key.sign(b"hive"), b"hive")
    AESGCM(AESGCM.generate_key(bit_length=256)).encrypt(bytes(12), b"hive", None)


def _wasmtime() -> None:
    import wasmtime

    # An empty module in binary form: magic and version. The text form would need the WAT compiler.
    store = wasmtime.Store()
    wasmtime.Instance(store, wasmtime.Module(store.engine, b"\0asm\x01\0\0\0"), [])


def _starlette() -> None:
    from starlette.applications import Starlette
    from starlette.routing import Route

    Starlette(routes=[Route("/", lambda request: None)])


def _hypercorn() -> None:
    from hypercorn.config import Config
    from hypercorn.trio import serve

    if serve.__module__ != "hypercorn.trio" or not Config.from_mapping(bind=["127.0.0.1:0"]).bind:
        raise RuntimeError("the trio worker is missing")


def _yaml() -> None:
    import yaml

    if yaml.safe_load("role: motherbee") != {"role": "motherbee"}:
        raise RuntimeError("YAML did not survive")


def _h11() -> None:
    import h11

    client = h11.Connection(h11.CLIENT)
    if client.send(h11.Request(method="GET", target="/", headers=[("Host", "hive")])) is None:
        raise RuntimeError("no request was made")


def _wsproto() -> None:
    from wsproto import ConnectionType, WSConnection
    from wsproto.events import Request

    WSConnection(ConnectionType.CLIENT).send(Request(host="hive", target="/"))


CHECKS: dict[str, Callable[[], None]] = {
    "trio": _trio,
    "anyio": _anyio,
    "msgspec": _msgspec,
    "lmdb": _lmdb,
    "cbor2": _cbor2,
    "pyzmq": _pyzmq,
    "cryptography": _cryptography,
    "wasmtime": _wasmtime,
    "starlette": _starlette,
    "hypercorn": _hypercorn,
    "h11": _h11,
    "wsproto": _wsproto,
    "PyYAML": _yaml,
}
"""Every run-time dependency and a small real use of it."""


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "-"


def _check(name: str, use: Callable[[], None]) -> ModuleCheck:
    try:
        use()
    except Exception as error:  # noqa: BLE001 - whatever is broken, the table must name it and go on
        return ModuleCheck(name=name, version=_version(name), error=f"{type(error).__name__}: {error}")
    return ModuleCheck(name=name, version=_version(name), error=None)


def check_modules() -> list[ModuleCheck]:
    """Use every run-time dependency once; takes well under a second and needs no hive."""
    return [_check(name, use) for name, use in CHECKS.items()]


def _selfcheck(args: argparse.Namespace) -> int:
    checks = check_modules()
    frozen = bool(getattr(sys, "frozen", False))
    if args.json:
        print_json({"frozen": frozen, "python": platform.python_version(), "libraries": checks})
    else:
        kind = "frozen" if frozen else "installed"
        sys.stdout.write(f"Python {platform.python_version()} on {platform.machine()}, {kind}\n")
        print_table(["library", "version", "state"], [[c.name, c.version, c.error or "ok"] for c in checks])
    return ExitCode.OK if all(check.error is None for check in checks) else ExitCode.FAILED
