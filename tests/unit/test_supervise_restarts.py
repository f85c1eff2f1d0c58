import trio
import trio.testing

from appliance.supervise.restarts import RestartLedger


def test_a_damaged_or_missing_file_costs_counts_only(tmp_path):
    async def main():
        path = tmp_path / "restarts.json"
        ledger = RestartLedger(path)
        await ledger.load()
        assert (ledger.count("AI.a@h"), ledger.failures) == (0, 0)
        path.write_text("{")
        await ledger.load()
        assert ledger.failures == 1

    trio.run(main)


def test_changes_are_written_and_a_refusing_medium_is_counted(tmp_path):
    async def main():
        ledger = RestartLedger(tmp_path / "restarts.json")
        lost = RestartLedger(tmp_path / "missing" / "restarts.json")
        async with trio.open_nursery() as nursery:
            for one in (ledger, lost):
                nursery.start_soon(one.run)
                one.note("AI.a@h", 2)
                one.note("AI.b@h", 1)
                one.forget("AI.b@h")
            await trio.sleep(0.5)
            nursery.cancel_scope.cancel()
        assert lost.failures == 1
        again = RestartLedger(tmp_path / "restarts.json")
        await again.load()
        assert (again.count("AI.a@h"), again.count("AI.b@h")) == (2, 0)

    trio.run(main)


def test_counts_of_nodes_that_are_no_more_are_dropped(tmp_path):
    ledger = RestartLedger(tmp_path / "restarts.json")
    ledger.note("AI.a@h", 1)
    ledger.note("AI.b@h", 2)
    ledger.keep({"AI.b@h", "AI.c@h"})
    assert [ledger.count(name) for name in ("AI.a@h", "AI.b@h", "AI.c@h")] == [0, 2, 0]
