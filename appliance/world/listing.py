"""Entities in order of their ids, from region and overlay at once (EP-30). Sans-IO besides the region."""

from __future__ import annotations

from itertools import islice

from appliance.store.layouts import WORLD_ENTITY

from .entities import KEY_HEAD_BYTES, entity_id, entity_key
from .overlay import Overlay
from .view import WorldView

__all__ = ["Listing", "common_prefix"]

_SCAN_PER_PAGE = 20


def common_prefix(prefix: str | None, namespace: str | None) -> str | None:
    """The one prefix that both filters come to; ``None`` when nothing can match both."""
    head, wanted = "" if namespace is None else f"{namespace}/", prefix or ""
    if head.startswith(wanted):
        return head
    return wanted if wanted.startswith(head) else None


class Listing:
    """Entities in order of id, page by page; made by ``WorldEngine.listing``.

    Every entity that exists from the first page to the last comes exactly once; one page is a consistent cut.

    Args:
        view: the region.
        overlay: what it does not show yet.
        prefix: what ids must start with; ``None``: nothing matches.
        after: an id; only those behind it.
    """

    def __init__(
        self, view: WorldView, overlay: Overlay, prefix: str | None, after: str | None = None
    ) -> None:
        self._view = view
        self._overlay = overlay
        self._ended = prefix is None
        self._prefix = (prefix or "").encode()
        self._key_prefix = self._prefix[:KEY_HEAD_BYTES]
        self._after = b"" if after is None else entity_key(after.encode())
        # What the region may not hold yet; what is created later may or may not come.
        waiting = (entity_key(one.encode()) for one in overlay.ids() if one.startswith(prefix or ""))
        long = {entity_key(one.encode()): one for one in overlay.ids() if len(one) * 4 > KEY_HEAD_BYTES}
        self._long = long
        self._extra = sorted({key for key in waiting if key > self._after}, reverse=True)

    def page(self, limit: int = 500) -> list[bytes]:
        """The next entities as JSON texts, at most ``limit`` (1 or more); empty at the end. Never waits.

        Give other tasks a turn between pages (``trio.lowlevel.checkpoint``).
        """
        return [text for _, text in self.rows(limit)]

    def rows(self, limit: int) -> list[tuple[str, bytes]]:
        """As ``page``, with the ids."""
        if limit < 1:  # an empty page is the end
            raise ValueError(f"a page holds at least one entity, not {limit}")
        found: list[tuple[str, bytes]] = []
        try:
            while not self._ended and not found:
                self._scan(found, limit)
        except ValueError as error:
            raise self._view.damaged("an entity of a listing", error) from error
        return found

    def _scan(self, found: list[tuple[str, bytes]], limit: int) -> None:
        """Go on through region and overlay; ends early when many rows are no entities any more."""
        extra, last = self._extra, self._after
        seen = 0
        with self._view.env.read() as txn:
            items = WORLD_ENTITY.raw_items(txn, start=last + b"\0" if last else None, prefix=self._key_prefix)
            for key, row in islice(items, limit * _SCAN_PER_PAGE):
                while extra and extra[-1] < key and len(found) < limit:
                    last = extra.pop()
                    self._emit(found, last, b"")
                if len(found) >= limit:
                    break
                if extra and extra[-1] == key:
                    extra.pop()
                last = key
                self._emit(found, key, row[8:])
                seen += 1
            else:
                if seen < limit * _SCAN_PER_PAGE:
                    while extra and len(found) < limit:
                        last = extra.pop()
                        self._emit(found, last, b"")
                    self._ended = not extra and len(found) < limit
        self._after = last

    def _emit(self, found: list[tuple[str, bytes]], key: bytes, below: bytes) -> None:
        one = self._id(key, below)
        if one is None:
            return
        text = self._overlay.text(one, below) if self._overlay.front or self._overlay.back else below
        if text and (len(self._prefix) <= KEY_HEAD_BYTES or one.encode().startswith(self._prefix)):
            found.append((one, text))

    def _id(self, key: bytes, below: bytes) -> str | None:
        if len(key) <= KEY_HEAD_BYTES:
            return key.decode()
        return entity_id(below) if below else self._long.get(key)
