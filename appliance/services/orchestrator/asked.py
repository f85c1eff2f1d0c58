"""Reading a request: texts, flags, the node that it is about.

Everything is checked here, once; a wrong type is ``INVALID_REQUEST`` and names its key.
"""

from __future__ import annotations

from appliance.supervise.names import NodeName, parse_node_name
from appliance.wire.errors import Invalid

from .house import Request

__all__ = ["flag", "node_of", "refuse_legacy", "text", "texts"]


def text(request: Request, key: str) -> str | None:
    """An optional text; ``null`` and the empty one count as absent.

    Raises:
        Invalid: something else.
    """
    value = request.get(key)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise Invalid(f"{key}: expected a text", field=key)
    return value


def texts(request: Request, key: str) -> tuple[str, ...]:
    """An optional list of texts.

    Raises:
        Invalid: something else.
    """
    value = request.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise Invalid(f"{key}: expected a list of texts", field=key)
    return tuple(value)


def flag(request: Request, key: str, *, default: bool) -> bool:
    """An optional yes or no; query strings' ``1``, ``true``, ``0``, ``false`` too.

    Raises:
        Invalid: something else.
    """
    value = request.get(key)
    if value is None:
        return default
    if isinstance(value, str):
        value = {"1": True, "true": True, "0": False, "false": False}.get(value.strip().lower(), value)
    if not isinstance(value, bool):
        raise Invalid(f"{key}: expected true or false", field=key)
    return value


def refuse_legacy(request: Request, *keys: str) -> None:
    """Refuse keys of an older form (``spec/admin-api.md §D.3`` step 1).

    Raises:
        Invalid: one of ``keys`` is there.
    """
    for key in keys:
        if key in request:
            raise Invalid(
                f"legacy field '{key}' is not supported; use node_name and runtime_version", field=key
            )


def node_of(request: Request, hive: str) -> NodeName:
    """The node that the request is about: a hive in its name wins, then ``target``, then ours.

    Raises:
        Invalid: no name, or not one.
    """
    return parse_node_name(request.get("node_name"), text(request, "target") or hive)
