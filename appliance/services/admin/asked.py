"""What a call asks for: its parameters with their types, the node and the hive that it is about. Sans-IO.

Which hive is meant: a hive in ``node_name`` wins, then ``target`` in the body, then the hive of the path or
of the command, then this one (``spec/admin-api.md §A.8``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from appliance.system.log import get_logger
from appliance.wire.admin.outcome import AdminCall
from appliance.wire.errors import Invalid
from appliance.wire.names import check_hive_id

__all__ = ["Asked", "hive_part"]

T = TypeVar("T")
log = get_logger("admin")


def hive_part(target: str) -> str:
    """The hive in ``hive`` or ``X@hive``."""
    return target.rpartition("@")[2]


class Asked:
    """One call, seen from the hive ``hive``."""

    def __init__(self, call: AdminCall, hive: str) -> None:
        self.action = call.action
        self.hive = hive
        self.params: Mapping[str, object] = call.params
        self._target = call.target

    def target(self, *, body: bool = True) -> str:
        """The hive that the call is about; ``body`` says whether ``params.target`` counts.

        Raises:
            Invalid: it is no hive id.
        """
        inner = self.params.get("target") if body else None
        if inner is not None and not isinstance(inner, str):
            raise Invalid("target must be a string", field="target")
        chosen = (inner or "").strip() or (self._target or "").strip() or self.hive
        return check_hive_id(hive_part(chosen), "target")

    def node(self, *, body: bool = True) -> tuple[str, str]:
        """Full name of the node in ``node_name``, and its hive.

        Raises:
            Invalid: there is none, or its hive is no hive id.
        """
        name = self.params.get("node_name")
        if not isinstance(name, str) or not name.strip():
            raise Invalid("missing node_name", field="node_name")
        name = name.strip()
        local, at, hive = name.rpartition("@")
        if not at:
            hive = self.target(body=body)
            return f"{name}@{hive}", hive
        check_hive_id(hive, "node_name")
        if not local:
            raise Invalid("node_name has no name before '@'", field="node_name")
        if self._target and hive_part(self._target) != hive:
            log.info("admin_target_overridden", action=self.action, node_name=name, target=self._target)
        return name, hive

    def text(self, key: str) -> str:
        """A string that must be there and not be blank.

        Raises:
            Invalid: it is not.
        """
        value = self.params.get(key)
        if not isinstance(value, str) or not value.strip():
            raise Invalid(f"missing {key}", field=key)
        return value

    def optional_text(self, key: str) -> str | None:
        """A string or nothing; null and blank count as nothing."""
        value = self.params.get(key)
        if value is None or value == "":
            return None
        if not isinstance(value, str):
            raise Invalid(f"{key} must be a string", field=key)
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        """A boolean, with its usual spellings in a query string."""
        value = self.params.get(key)
        if value is None or value == "":
            return default
        if isinstance(value, bool):
            return value
        word = str(value).strip().lower()
        if word in ("1", "true", "yes", "on"):
            return True
        if word in ("0", "false", "no", "off"):
            return False
        raise Invalid(f"{key} must be true or false", field=key)

    def number(self, key: str) -> int | None:
        """An unsigned integer or nothing; digits in a string count, for query strings.

        Raises:
            Invalid: it is something else.
        """
        value = self.params.get(key)
        if value is None or value == "":
            return None
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 19:
            return int(value)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
        raise Invalid(f"{key} must be an unsigned integer", field=key)

    def refuse(self, *keys: str, use: str) -> None:
        """Refuse legacy keys.

        Raises:
            Invalid: one of them is there.
        """
        for key in keys:
            if key in self.params:
                raise Invalid(f"legacy field {key!r} is not supported; use {use}", field=key)

    def shaped(self, shape: type[T]) -> T:
        """The parameters as ``shape``.

        Raises:
            Invalid: they do not fit; the text names the key.
        """
        try:
            return msgspec.convert(dict(self.params), shape)
        except msgspec.ValidationError as error:
            raise Invalid(f"invalid request body: {error}") from error

    def without(self, *keys: str) -> dict[str, object]:
        """The parameters but these."""
        return {key: value for key, value in self.params.items() if key not in keys}
