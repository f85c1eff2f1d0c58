"""Names of managed nodes: the full name and its unit (``spec/admin-api.md §D.2``).

Pure functions. The grammar is the reference's, which is wider than the one of
:func:`appliance.wire.names.check_local_name`: operators' scripts spawn ``WF.a-b.c_1``.
"""

from __future__ import annotations

import re

import msgspec

from appliance.wire.errors import Invalid
from appliance.wire.names import check_hive_id, is_system_name

__all__ = [
    "NodeName",
    "check_spawnable",
    "parse_node_name",
    "unit_name",
]

_SHORT = re.compile(r"[A-Za-z0-9._-]+\Z")
_NOT_UNIT = re.compile(r"[^A-Za-z0-9._-]")
_LONGEST_BYTES = 200
"""A full name is a directory's name, and log and unit names are made of it: 255 bytes with room to spare."""


class NodeName(msgspec.Struct, frozen=True):
    """A checked name: ``short`` before the last ``@``, ``hive`` behind it."""

    short: str
    hive: str

    @property
    def full(self) -> str:
        """The L2 name."""
        return f"{self.short}@{self.hive}"

    @property
    def kind(self) -> str:
        """Text before the first dot, as written."""
        return self.short.partition(".")[0]


def parse_node_name(text: object, hive: str, *, field: str = "node_name") -> NodeName:
    """``text`` as a node name; without ``@`` it is one of ``hive``.

    Raises:
        Invalid: not a text, characters outside ``[A-Za-z0-9._-]``, no kind, or too long.
    """
    if not isinstance(text, str) or not text.strip():
        raise Invalid(f"missing {field}", field=field)
    text = text.strip()
    short, at, own = text.rpartition("@")
    name = NodeName(short, own) if at else NodeName(text, hive)
    check_hive_id(name.hive, field)
    if not _SHORT.match(name.short) or not name.kind or len(name.full.encode()) > _LONGEST_BYTES:
        raise Invalid(
            f"{field}: {text!r} is not a node name",
            field=field,
            remedy="Use KIND.label with letters, digits, '.', '_' and '-', for example AI.echo.",
        )
    return name


def check_spawnable(name: NodeName, *, act: str) -> None:
    """Nodes of the appliance itself are neither spawned nor ended (decisions H-10, ``design.md §5``).

    Raises:
        Invalid: ``name`` starts with ``SY.`` or ``RT.``.
    """
    if is_system_name(name.short):
        raise Invalid(
            f"{name.full} is part of the appliance and cannot be {act}",
            field="node_name",
            remedy="Use a name of kind AI, IO or WF.",
        )


def unit_name(full_name: str, override: object = None) -> str:
    """What the reference calls the service unit: reported, and accepted by ``kill_node``.

    Raises:
        Invalid: ``override`` is given and holds nothing that a unit may be called.
    """
    if override is None or override == "":
        return f"fluxbee-node-{_NOT_UNIT.sub('-', full_name)}"
    if not isinstance(override, str):
        raise Invalid("unit: expected a text", field="unit")
    # It names a folder in the cgroup tree: neither hidden nor an option of some tool.
    unit = _NOT_UNIT.sub("-", override.removesuffix(".service")).lstrip(".-")[:_LONGEST_BYTES]
    if not unit:
        raise Invalid(f"unit: {override!r} is not a unit's name", field="unit")
    return unit
