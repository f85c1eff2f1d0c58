from __future__ import annotations

import pytest

from appliance.store.region_statistics import EnvironmentCounters, ReaderTable, reader_table

HEADING = "    pid     thread     txnid\n"


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ("(no active readers)\n", ReaderTable(0, None)),
        (HEADING + "     123 7f0011223344 42\n", ReaderTable(1, 42)),
        (HEADING + "     123 7f0011223344 42\n      99 0 -\n     124 0 7\n", ReaderTable(2, 7)),
        ("", ReaderTable(0, None)),
    ],
)
def test_the_table_of_readers_as_lmdb_prints_it(text: str, table: ReaderTable) -> None:
    assert reader_table(text) == table


def test_bytes_are_exact_as_long_as_the_kernel_tells() -> None:
    counters = EnvironmentCounters()
    counters.committed(2, 10, 8192)
    assert (counters.bytes_written, counters.bytes_exact) == (8192, True)
    counters.committed(1, 10, None)
    assert (counters.commits, counters.rows_changed) == (2, 3)
    assert (counters.bytes_written, counters.bytes_exact) == (8202, False)
