"""What is kept of sources and credentials, over restarts, rotations and damage (AT-IN-8, CN-01)."""

from __future__ import annotations

import pytest
import trio

from appliance.store.journal import Journal
from appliance.testing.clock import FakeClock
from appliance.wire.errors import Damaged, Unavailable
from appliance.world.connectors import book as book_module
from appliance.world.connectors.book import JOURNAL, ConnectorBook, Secrets
from appliance.world.connectors.records import GenericSource
from appliance.world.connectors.vault import KeyRing

OLD, NEW = b"o" * 32, b"n" * 32


@pytest.fixture
def opened(tmp_path):
    """Run an async function with the book of one place; again to restart it."""
    clock = FakeClock()

    def run(use, *keys):
        async def main():
            async with ConnectorBook(tmp_path / "j", KeyRing(keys or (OLD,)), clock).opened() as book:
                await use(book)

        trio.run(main)

    run.clock = clock
    return run


def source(source_id: str = "s1") -> GenericSource:
    return GenericSource(
        source_id=source_id,
        name="meter",
        url="http://meter.lan/",
        poll_interval_s=30,
        entity_key="m",
        namespace="plant",
        mapping={"p": "a.b"},
        created_at_ms=1,
    )


def test_credentials_survive_and_are_replaced_and_removed(opened):
    async def store(book):
        await book.store("default", "github", Secrets("one"))
        opened.clock.jump_wall(5)
        await book.store("default", "github", Secrets("two", "again", 99))
        await book.store("ns_1", "github", Secrets("theirs"))

    async def look(book):
        assert book.secrets("default", "github") == Secrets("two", "again", 99)
        assert book.secrets("ns_1", "github") == Secrets("theirs")
        assert book.secrets("default", "gmail") is None
        row = book.credentials["default", "github"]
        assert row.updated_at_ms == row.created_at_ms + 5000
        assert await book.remove("default", "github")
        assert not await book.remove("default", "github")

    async def gone(book):
        assert list(book.credentials) == [("ns_1", "github")]

    for step in (store, look, gone):
        opened(step)


def test_a_source_and_its_tokens_come_and_go_together(opened, tmp_path):
    async def add(book):
        await book.add_source(source(), {"generic": "hush", "generic.flux": "hush2"})
        await book.add_source(source("s2"), {})

    async def remove(book):
        assert list(book.sources) == ["s1", "s2"]
        assert book.sources["s1"] == source()
        assert book.secrets("generic.flux", "s1") == Secrets("hush2")
        assert await book.remove_source("s1")
        assert not await book.remove_source("s1")
        assert book.secrets("generic", "s1") is None

    async def look(book):
        assert list(book.sources) == ["s2"]
        assert not book.credentials

    opened(add)
    written = b"".join(path.read_bytes() for path in (tmp_path / "j").rglob("*") if path.is_file())
    assert b"meter.lan" in written
    assert b"hush" not in written
    opened(remove)
    opened(look)


def test_a_new_key_takes_over_at_the_start(opened):
    async def store(book):
        await book.store("default", "github", Secrets("one", "again"))

    async def rotate(book):
        assert book.resealed == 1
        assert book.secrets("default", "github") == Secrets("one", "again")

    async def without_the_old_key(book):
        assert book.resealed == 0
        assert book.secrets("default", "github") == Secrets("one", "again")

    opened(store, OLD)
    opened(rotate, NEW, OLD)
    opened(without_the_old_key, NEW)


def test_a_lost_key_costs_its_credentials_and_nothing_else(opened):
    async def store(book):
        await book.store("default", "github", Secrets("one"))
        await book.add_source(source(), {})

    async def look(book):
        with pytest.raises(Damaged):
            book.secrets("default", "github")
        assert list(book.sources) == ["s1"]
        await book.store("default", "github", Secrets("two"))
        assert book.secrets("default", "github") == Secrets("two")

    opened(store, OLD)
    opened(look, NEW)


def test_the_journal_stays_short(opened, monkeypatch):
    monkeypatch.setattr(book_module, "_BASE_EVERY", 4)

    async def store(book):
        for number in range(9):
            await book.store("default", "github", Secrets(str(number)))
        assert book._journal.base.upto_seq == 8

    async def look(book):
        assert book.secrets("default", "github") == Secrets("8")

    opened(store)
    opened(look)


def test_what_the_journal_does_not_take_is_not_in_force(opened, monkeypatch):
    async def use(book):
        async def full(records):
            raise Unavailable("the disk is full")

        await book.store("default", "github", Secrets("one"))
        monkeypatch.setattr(book._journal, "append_many", full)
        for change in (
            book.store("default", "github", Secrets("two")),
            book.remove("default", "github"),
            book.add_source(source(), {"generic": "hush"}),
        ):
            with pytest.raises(Unavailable):
                await change
        assert book.secrets("default", "github") == Secrets("one")
        assert not book.sources
        assert list(book.credentials) == [("default", "github")]

    opened(use)


def test_what_does_not_decode_is_counted(opened, tmp_path):
    async def write():
        async with await Journal.opened(tmp_path / "j", JOURNAL) as journal:
            await journal.append(b'{"type":"from the future"}')

    async def look(book):
        assert book.undecodable == 1
        await book.add_source(source(), {})

    trio.run(write)
    opened(look)


def test_secrets_do_not_show():
    assert "hush" not in repr(Secrets("hush", "hush"))
