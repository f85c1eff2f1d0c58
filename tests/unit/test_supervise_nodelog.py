from __future__ import annotations

from pathlib import Path

import trio
import trio.testing

from appliance.keeper.node_log import CURRENT, OLDER, LogRing
from appliance.supervise.nodelog import POLL_S, LogCursor, follow, read_tail


def lines(first: int, last: int) -> bytes:
    return b"".join(b"line %04d\n" % number for number in range(first, last))


def texts(first: int, last: int) -> list[str]:
    return [f"line {number:04}" for number in range(first, last)]


def test_the_tail_comes_from_both_files_in_order(tmp_path: Path) -> None:
    (tmp_path / OLDER).write_bytes(lines(0, 5))
    (tmp_path / CURRENT).write_bytes(lines(5, 8))
    assert read_tail(tmp_path, 2) == texts(6, 8)
    assert read_tail(tmp_path, 4) == texts(4, 8)
    assert read_tail(tmp_path, 100) == texts(0, 8)
    assert read_tail(tmp_path, 0) == []


def test_a_tail_longer_than_a_block_is_whole(tmp_path: Path) -> None:
    (tmp_path / CURRENT).write_bytes(lines(0, 9000))
    assert read_tail(tmp_path, 8000) == texts(1000, 9000)


def test_a_line_that_is_being_written_waits(tmp_path: Path) -> None:
    (tmp_path / CURRENT).write_bytes(b"whole\nhal")
    assert read_tail(tmp_path, 5) == ["whole"]


def test_without_a_directory_there_is_nothing(tmp_path: Path) -> None:
    assert read_tail(tmp_path / "none", 5) == []


def test_bytes_that_are_no_text_are_shown_all_the_same(tmp_path: Path) -> None:
    (tmp_path / CURRENT).write_bytes(b"a\xffb\n")
    assert read_tail(tmp_path, 1) == ["a\N{REPLACEMENT CHARACTER}b"]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x\n")
    (tmp_path / CURRENT).symlink_to(tmp_path / "secret")
    assert read_tail(tmp_path, 1) == []


def drained(cursor: LogCursor) -> list[str]:
    found = cursor.read()
    while cursor.behind:
        found += cursor.read()
    return found


def test_a_cursor_reads_on_through_rotations(tmp_path: Path) -> None:
    ring = LogRing(tmp_path, 8192)
    ring.write(lines(0, 3))
    cursor = LogCursor(tmp_path)
    cursor.to_end()
    found: list[str] = []
    for first in range(3, 2003, 100):
        ring.write(lines(first, first + 100))
        found += drained(cursor)
    ring.close()
    assert found == texts(3, 2003)
    assert (tmp_path / OLDER).exists()


def test_a_cursor_starts_again_in_an_emptied_file(tmp_path: Path) -> None:
    path = tmp_path / CURRENT
    path.write_bytes(lines(0, 9))
    cursor = LogCursor(tmp_path)
    cursor.to_end()
    path.write_bytes(lines(20, 22))
    assert drained(cursor) == texts(20, 22)


def test_who_falls_behind_two_files_goes_on_with_what_is_there(tmp_path: Path) -> None:
    ring = LogRing(tmp_path, 8192)
    ring.write(lines(0, 10))
    cursor = LogCursor(tmp_path)
    cursor.to_end()
    ring.write(lines(10, 3000))
    ring.close()
    found = drained(cursor)
    assert found[-1] == "line 2999"
    assert found == texts(3000 - len(found), 3000)


def test_follow_gives_lines_as_they_come(tmp_path: Path) -> None:
    directory = tmp_path / "later"
    found: list[str] = []
    two, four = trio.Event(), trio.Event()

    async def read() -> None:
        async for line in follow(directory):
            found.append(line)
            if len(found) == 2:
                two.set()
            if len(found) == 4:
                four.set()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            ring = LogRing(directory, 8192)
            await trio.sleep(POLL_S * 3)  # it looks, and finds nothing
            ring.write(lines(0, 2))
            with trio.fail_after(500):
                await two.wait()
            assert found == texts(0, 2)
            ring.write(lines(2, 4))
            ring.close()
            with trio.fail_after(500):
                await four.wait()
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(rate=50))
    assert found == texts(0, 4)
