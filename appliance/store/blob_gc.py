"""Collecting old blobs (``spec/node-protocol.md §6.4``).

Two passes, ``staging`` and ``active``, by modification time and not by ``spool_day``. Only files with a
valid blob name are ever candidates; directories whose name starts with a dot are skipped; symbolic links are
neither followed nor removed. An applied run also removes empty prefix directories and old temporary files of
killed writers (those count as skipped, not as deleted blobs). What cannot be removed is reported and does
not stop the run.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from appliance.wire.blob import (
    ACTIVE_DIR,
    STAGING_DIR,
    BlobGcOptions,
    BlobGcPassReport,
    BlobGcReport,
    validate_blob_name,
)
from appliance.wire.errors import Invalid

from .blob_place import TEMP_PREFIX, open_directory, regular_file

__all__ = ["collect"]

_HOUR_S = 3600.0
_DAY_S = 24 * _HOUR_S
_MAX_ERRORS = 100
"""More than these are counted in one closing line."""


def collect(root: Path, options: BlobGcOptions, now_s: float) -> BlobGcReport:
    """Run both passes over the blob root; ``now_s`` is the wall clock in seconds."""
    staging_ttl_s = options.staging_ttl_hours * _HOUR_S
    return BlobGcReport(
        apply=options.apply,
        staging_ttl_hours=options.staging_ttl_hours,
        active_retain_days=options.active_retain_days,
        staging=_Pass(now_s - staging_ttl_s, apply=options.apply).run(root / STAGING_DIR),
        active=_Pass(now_s - options.active_retain_days * _DAY_S, apply=options.apply).run(root / ACTIVE_DIR),
    )


def _is_blob_name(name: str) -> bool:
    try:
        validate_blob_name(name)
    except Invalid:
        return False
    return True


class _Pass:
    """One walk over one area; files last modified at ``before_s`` or earlier are candidates."""

    def __init__(self, before_s: float, *, apply: bool) -> None:
        self.before_s = before_s
        self.apply = apply
        self.scanned = self.candidates = self.deleted = self.deleted_bytes = self.skipped = 0
        self.errors: list[str] = []
        self.more_errors = 0

    def run(self, area: Path) -> BlobGcPassReport:
        try:
            top = open_directory(str(area), None, create=False)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._failed(str(area), error)
        else:
            try:
                self._walk(top)
            finally:
                os.close(top)
        if self.more_errors:
            self.errors.append(f"and {self.more_errors} more")
        return BlobGcPassReport(
            apply=self.apply,
            scanned_files=self.scanned,
            candidate_files=self.candidates,
            deleted_files=self.deleted,
            deleted_bytes=self.deleted_bytes,
            skipped_non_blob_files=self.skipped,
            errors=tuple(self.errors),
        )

    def _walk(self, top: int) -> None:
        def failed(error: OSError) -> None:
            self._failed(str(error.filename), error)

        directories: list[str] = []
        for where, names, files, directory in os.fwalk(".", dir_fd=top, onerror=failed):
            names[:] = sorted(name for name in names if not name.startswith("."))
            directories.append(where)
            for name in sorted(files):
                self.scanned += 1
                try:
                    self._file(name, directory)
                except OSError as error:
                    self._failed(f"{where}/{name}", error)
        if self.apply:
            for where in reversed(directories[1:]):
                with suppress(OSError):  # not empty, or somebody was faster
                    os.rmdir(where, dir_fd=top)

    def _file(self, name: str, directory: int) -> None:
        found = regular_file(name, directory)
        is_blob = found is not None and _is_blob_name(name)
        self.skipped += not is_blob
        if found is None or found.st_mtime > self.before_s:
            return
        if is_blob:
            self.candidates += 1
        elif not name.startswith(TEMP_PREFIX):
            return
        if self.apply:
            os.unlink(name, dir_fd=directory)
            if is_blob:
                self.deleted += 1
                self.deleted_bytes += found.st_size

    def _failed(self, what: str, error: OSError) -> None:
        if len(self.errors) < _MAX_ERRORS:
            self.errors.append(f"{what}: {error.strerror or error}")
        else:
            self.more_errors += 1
