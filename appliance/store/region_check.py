"""Is this file an LMDB environment that may be mapped into a process?

LMDB trusts its file: a file shorter than its meta page says, or a page full of garbage, ends the process
that touches it with SIGBUS, SIGSEGV or an assertion. So a file is judged before it is opened, in two steps.
The meta pages are parsed here, with plain reads. Then a forked child, which may die, looks as deep as it is
told (:class:`Depth`) and begins a change that it abandons.

Limits: LMDB 0.9 has no checksums. Changed bytes inside a key or value that leave the page structure intact
pass; a record that no longer decodes is found when it is read. Below ``Depth.PAGES`` damage in the list of
free pages, or in parts of a page that only writing needs, passes too. A view can be rebuilt, so doubt is
always answered by setting the file aside.
"""

from __future__ import annotations

import faulthandler
import os
import resource
import select
import signal
import struct
import time
import warnings
from contextlib import suppress
from enum import IntEnum
from pathlib import Path

import lmdb
import msgspec
from lmdb.verify import VerifyError, verify

from appliance.system.process import set_parent_death_signal

__all__ = ["MAX_DBS", "Depth", "MetaPages", "probe", "read_meta_pages"]

MAX_DBS = 64
"""Named tables per environment."""

_MAGIC = 0xBEEFC0DE
_META_FLAG = 0x08
_NO_PAGE = (1 << 64) - 1
_META_BODY = 24 + 2 * 48 + 16
_MAX_DEPTH = 32  # LMDB's cursor stack
# Data format by size of a page header: LMDB 0.9 on 64 bits, and LMDB 1.0, which adds a transaction id.
_FORMATS = {16: 1, 24: 3}


class Depth(IntEnum):
    """How deep the probe looks; times measured on one core of a 2-core x86 machine, file in the cache."""

    ENDS = 0
    """First and last row of every table: about 5 ms, mostly the fork."""
    ROWS = 1
    """Every row, its order and the counts: about 1 ms/MB."""
    PAGES = 2
    """Also every page, node and free page by LMDB's own rules, without LMDB: about 8 ms/MB."""


class MetaPages(msgspec.Struct, frozen=True, kw_only=True):
    """What the newer of the two meta pages says, and the size of the file."""

    page_bytes: int
    map_bytes: int
    last_page: int
    txnid: int
    file_bytes: int

    @property
    def short(self) -> bool:
        """The file ends before its last page.

        Legal when the missing pages are free (allocated and dropped within one transaction, never written),
        a truncated file otherwise: only a walk tells.
        """
        return self.file_bytes < (self.last_page + 1) * self.page_bytes


def _meta_at(raw: bytes, header: int) -> tuple[int, int, int, int]:
    """Page size, map size, last page and transaction id of the meta page in ``raw``."""
    flags = struct.unpack_from("=H", raw, header - 6)[0]
    magic, version, _address, map_bytes = struct.unpack_from("=IIQQ", raw, header)
    if not flags & _META_FLAG or magic != _MAGIC or version != _FORMATS[header]:
        raise ValueError("a meta page is not one")
    roots, page_bytes = [], 0
    for at in (header + 24, header + 24 + 48):
        pad, _flags, depth, *_counts, root = struct.unpack_from("=IHHQQQQQ", raw, at)
        page_bytes = page_bytes or pad
        if depth > _MAX_DEPTH:
            raise ValueError("a tree is deeper than LMDB can walk")
        roots.append(root)
    last_page, txnid = struct.unpack_from("=QQ", raw, header + 24 + 96)
    if any(root not in (_NO_PAGE, 0) and root > last_page for root in roots):
        raise ValueError("a root lies behind the last page")
    return page_bytes, map_bytes, last_page, txnid


def read_meta_pages(path: Path) -> MetaPages:
    """Parse the meta pages of the environment file ``path`` without mapping it.

    Raises:
        ValueError: the file is not a sound LMDB environment; the text says what is wrong.
        OSError: the file cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        size = os.fstat(fd).st_size
        head = os.pread(fd, 256, 0)
        header = next((at for at in _FORMATS if head[at : at + 4] == struct.pack("=I", _MAGIC)), 0)
        if not header or len(head) < header + _META_BODY:
            raise ValueError("not an LMDB environment")
        page_bytes, *first = _meta_at(head, header)
        if page_bytes & (page_bytes - 1) or not 256 <= page_bytes <= 65536:
            raise ValueError(f"page size {page_bytes}")
        second_head = os.pread(fd, 256, page_bytes)
        if len(second_head) < header + _META_BODY:
            raise ValueError("the second meta page is missing")
        second_bytes, *second = _meta_at(second_head, header)
    finally:
        os.close(fd)
    if second_bytes != page_bytes:
        raise ValueError("the meta pages disagree on the page size")
    map_bytes, last_page, txnid = max(first, second, key=lambda meta: meta[2])
    if last_page < 1:
        raise ValueError(f"last page {last_page}")
    return MetaPages(
        page_bytes=page_bytes, map_bytes=map_bytes, last_page=last_page, txnid=txnid, file_bytes=size
    )


# --- the walk in a child -------------------------------------------------------------------------------


def _walk_table(txn: lmdb.Transaction[bytes], db: lmdb._Database, name: bytes, depth: Depth) -> None:
    wanted, seen, last = txn.stat(db)["entries"], 0, b""
    cursor = txn.cursor(db)
    if depth is Depth.ENDS:
        if (cursor.first() and cursor.last()) != (wanted > 0):
            raise ValueError(f"table {name!r}: rows and count differ")
        return
    for key, _value in cursor:
        seen += 1
        if key < last or seen > wanted:
            raise ValueError(f"table {name!r}: row {seen} of {wanted} is out of place")
        last = key
    if seen != wanted:
        raise ValueError(f"table {name!r} has {seen} rows of {wanted}")


def _walk(path: Path, map_bytes: int, depth: Depth) -> None:
    if depth is Depth.PAGES:
        findings: list[str] = verify(str(path), subdir=False)  # type: ignore[no-untyped-call]
        if findings:
            raise ValueError(f"{findings[0]} ({len(findings)} findings)")
    # No lock: the caller holds the environment's writer lock, and nothing is committed here.
    env = lmdb.open(
        str(path), subdir=False, lock=False, create=False, max_dbs=MAX_DBS, map_size=map_bytes, sync=False
    )
    with env.begin() as txn:
        names = [key for key, _value in txn.cursor()]
    tables = {name: env.open_db(name, create=False) for name in names}
    with env.begin() as txn:
        for name, db in tables.items():
            _walk_table(txn, db, name, depth)
    change = env.begin(write=True)  # nothing of it reaches the file
    with suppress(lmdb.MapFullError):
        for size in (1, 64 << 10):  # one page, and a run of pages: LMDB must read its list of free pages
            change.put(b"probe", bytes(size))
    change.abort()


def _be_the_child(path: Path, map_bytes: int, answer: int, parent_pid: int, depth: Depth) -> None:
    # The child holds a copy of the writer lock's descriptor: it must not outlive its parent.
    set_parent_death_signal(signal.SIGKILL, parent_pid=parent_pid)
    with suppress(ValueError):
        signal.set_wakeup_fd(-1)  # the parent's event loop must not hear our signals
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(answer, 2)  # an assertion of LMDB writes its reason to stderr before it aborts
    try:
        _walk(path, map_bytes, depth)
        text = "ok"
    except (lmdb.Error, VerifyError, ValueError, OSError, MemoryError) as error:
        text = f"{type(error).__name__}: {error}"
    os.write(answer, text.encode()[:4000])


def _fork() -> int:
    with warnings.catch_warnings():
        # Python 3.12 warns of fork() beside threads. The child calls LMDB and _exit, takes no lock of ours,
        # and has a deadline.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def probe(path: Path, *, map_bytes: int, depth: Depth, deadline_s: float = 60.0) -> str:
    """Let a child open and walk the environment; blocks until it has ended.

    Args:
        path: the environment file; nobody else may be writing it.
        map_bytes: size of the map it will be opened with.
        depth: how much of it to look at.
        deadline_s: seconds after which the child is killed and the file counts as damaged.

    Returns:
        Empty when all is well, else what is wrong.

    Raises:
        OSError: no child could be started.
    """
    reading, writing = os.pipe()
    parent_pid = os.getpid()
    pid = _fork()
    if pid == 0:
        try:
            os.close(reading)
            _be_the_child(path, map_bytes, writing, parent_pid, depth)
        finally:
            os._exit(0)
    os.close(writing)
    try:
        text, finished = _read_answer(reading, deadline_s)
    finally:
        os.close(reading)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):  # somebody set SIGCHLD to be ignored; the answer is enough
            os.waitpid(pid, 0)
    if text == "ok":
        return ""
    if not finished:
        return f"reading it took longer than {deadline_s:g} s"
    return text.strip() or "reading it killed the process"


def _read_answer(fd: int, deadline_s: float) -> tuple[str, bool]:
    """Everything the child wrote, and whether it closed its end in time."""
    end = time.monotonic() + deadline_s
    parts: list[bytes] = []
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    while poller.poll(max(0.0, end - time.monotonic()) * 1000):
        part = os.read(fd, 4096)
        if not part:
            return b"".join(parts).decode(errors="replace"), True
        parts.append(part)
        if sum(map(len, parts)) > 65536:
            break
    return b"".join(parts).decode(errors="replace"), False
