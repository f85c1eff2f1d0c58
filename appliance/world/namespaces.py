"""Namespaces: names, tokens, who may write which entity (``spec/flux-state.md §2.5, §3.4``). Sans-IO.

A token is shown once and kept as a SHA-256: it has 122 random bits, so a slow hash would add nothing. Tokens
are found by their hash and compared in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
import uuid

from appliance.wire.errors import Conflict, Invalid, NotFound

from .types import Caller, Namespace, Problem

__all__ = ["MAX_NAMESPACES", "Registry", "check_name", "namespace_of", "new_id", "new_token", "token_hash"]

MAX_NAMESPACES = 10_000
_NAME = re.compile(r"[a-z0-9_-]{3,32}\Z")
_BAD = re.compile(r"[^a-z0-9_-]")
_ID_CHARS = string.digits + string.ascii_lowercase


def check_name(name: str) -> None:
    """Raise ``Invalid`` with the wire text unless ``name`` is a namespace's (EP-50)."""
    if fault := _name_fault(name):
        raise Invalid(fault, field="name")


def _name_fault(name: str) -> str:
    size = len(name.encode())
    if size < 3:
        return "Namespace name too short (minimum 3 characters)"
    if size > 32:
        return "Namespace name too long (maximum 32 characters)"
    bad = _BAD.search(name)
    return f"Invalid character '{bad[0]}' (must be [a-z0-9-_])" if bad else ""


def token_hash(token: str) -> bytes:
    """What is kept of a token."""
    return hashlib.sha256(token.encode()).digest()


def new_token() -> str:
    """A fresh token (UUIDv4, EP-50)."""
    return str(uuid.uuid4())


def new_id() -> str:
    """A fresh namespace id: ``ns_`` and eight of ``[0-9a-z]``."""
    return "ns_" + "".join(secrets.choice(_ID_CHARS) for _ in range(8))


def namespace_of(entity_id: str) -> str | None:
    """The namespace in an id: what stands before the first ``/``, when it is a name (ST-20, ST-22)."""
    name, slash, rest = entity_id.partition("/")
    return name if slash and rest and _NAME.match(name) else None


class Registry:
    """All namespaces, by name and by token."""

    def __init__(self) -> None:
        self._by_name: dict[str, Namespace] = {}
        self._by_token: dict[bytes, str] = {}

    def __len__(self) -> int:
        return len(self._by_name)

    def get(self, name: str) -> Namespace | None:
        """The namespace of that name."""
        return self._by_name.get(name)

    def require(self, name: str) -> Namespace:
        """The same, or ``NotFound``."""
        found = self._by_name.get(name)
        if found is None:
            raise NotFound("Namespace not found")
        return found

    def all(self) -> list[Namespace]:
        """All, by name."""
        return [self._by_name[name] for name in sorted(self._by_name)]

    def check_new(self, name: str) -> None:
        """Raise unless ``name`` can be registered: ``Invalid``, or ``Conflict`` (taken, or too many)."""
        check_name(name)
        if name in self._by_name:
            raise Conflict("Namespace name already exists")
        if len(self._by_name) >= MAX_NAMESPACES:
            raise Conflict(f"There are {MAX_NAMESPACES} namespaces already", code="TOO_MANY_NAMESPACES")

    def put(self, namespace: Namespace) -> None:
        """Add or replace."""
        self.remove(namespace.name)
        self._by_name[namespace.name] = namespace
        self._by_token[namespace.token_sha256] = namespace.name

    def remove(self, name: str) -> None:
        """Forget; what is not there is fine."""
        gone = self._by_name.pop(name, None)
        if gone is not None:
            self._by_token.pop(gone.token_sha256, None)

    def clear(self) -> None:
        """Forget all."""
        self._by_name.clear()
        self._by_token.clear()

    def owner(self, token: str | None) -> Namespace | None:
        """The namespace that ``token`` opens, or None."""
        if not token:
            return None
        digest = token_hash(token)
        name = self._by_token.get(digest)  # found by hash: its timing tells nothing about a token
        found = self._by_name.get(name) if name is not None else None
        return found if found and hmac.compare_digest(found.token_sha256, digest) else None

    def refusal(self, entity_id: object, caller: Caller, owner: Namespace | None) -> Problem | None:
        """Why ``caller``, who has the token of ``owner``, may not write ``entity_id``; None: it may.

        The order and the texts are those of EP-01; the second text is the one in batches (EP-05).
        """
        if caller.token is None:
            return _problem("authorization", caller.refusal, f"Invalid token: {caller.refusal}")
        if not isinstance(entity_id, str):
            text = "Missing 'entity_id' field in payload"
            return _problem("entity", text, f"Invalid entity ID: {text}")
        name = entity_id.partition("/")[0]
        if owner is not None and name == owner.name and len(entity_id) > len(name) + 1:
            return None
        return self._entity_refusal(entity_id)

    def _entity_refusal(self, entity_id: str) -> Problem:
        name, slash, rest = entity_id.partition("/")
        if not slash:
            text = f"Entity ID '{entity_id}' missing namespace prefix (expected 'namespace/entity' format)"
            return _problem("entity", text, f"Invalid entity ID: {text}")
        fault = _name_fault(name) if name and rest else "expected 'namespace/entity' format"
        if fault:
            text = f"Failed to parse entity_id '{entity_id}': {fault}"
            return _problem("entity", text, f"Invalid entity ID: {text}")
        if name not in self._by_name:
            return _problem("namespace", f"Namespace '{name}' not found", f"Namespace not found: {name}")
        text = f"Token does not have permission to write to namespace '{name}'"
        return _problem("forbidden", text, f"Forbidden: {text}")


def _problem(kind: str, text: str, batch_text: str) -> Problem:
    assert kind in ("authorization", "entity", "namespace", "forbidden")
    return Problem(kind, text, f"authorization failed: {batch_text}")  # type: ignore[arg-type]
