from __future__ import annotations

import errno
import threading

import pytest
import trio

from appliance.store.journal_jobs import Job
from appliance.store.journal_writer import InlineWriter, WriterThread
from appliance.system.disk import Disk
from appliance.testing.faultdisk import CrashDisk
from tests.fault.journal_kit import on_trio


class Note(Job):
    """Notes on which thread it ran."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.thread: str | None = None
        self.failure = error

    def run(self, disk: Disk) -> None:
        self.thread = threading.current_thread().name
        if self.failure is not None:
            raise self.failure


@on_trio
async def test_jobs_run_in_order_on_a_thread_and_come_back_on_the_loop() -> None:
    writer = WriterThread(CrashDisk(), "me")
    back: list[tuple[Job, str]] = []
    done = trio.Event()

    def deliver(job: Job) -> None:
        back.append((job, threading.current_thread().name))
        if len(back) == 3:
            done.set()

    writer.start(deliver)
    jobs = [Note(), Note(OSError(errno.EIO, "bad")), Note()]
    for job in jobs:
        writer.put(job)
    await done.wait()
    writer.stop()
    assert [job for job, _ in back] == jobs
    assert {thread for _, thread in back} == {threading.current_thread().name}
    assert {job.thread for job in jobs} == {"journal-me"}
    assert [job.error is not None for job in jobs] == [False, True, False]
    assert all(job.wait(0) for job in jobs)


@on_trio
async def test_a_thread_that_breaks_does_not_look_like_success(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    writer = WriterThread(CrashDisk(), "me")
    done = trio.Event()
    writer.start(lambda job: done.set())
    job = Note(ZeroDivisionError())
    writer.put(job)
    await done.wait()
    assert job.error is not None
    assert job.error.errno == errno.EIO


def test_a_loop_that_is_gone_is_not_told() -> None:
    writer = WriterThread(CrashDisk(), "me")

    async def main() -> None:
        writer.start(lambda job: None)

    trio.run(main)
    job = Note()
    writer.put(job)
    assert job.wait(5)
    writer.stop()


def test_inline_jobs_are_delivered_before_put_returns() -> None:
    writer = InlineWriter(CrashDisk())
    back: list[Job] = []
    writer.start(back.append)
    job = Note(OSError(errno.EIO, "bad"))
    writer.put(job)
    writer.stop()
    assert back == [job]
    assert job.thread == threading.current_thread().name


def test_waiting_for_a_job_has_an_end() -> None:
    job = Note()
    assert not job.wait(0.001)
    job.perform(CrashDisk())
    assert job.wait(0.001)
    assert job.wait(0.001)
