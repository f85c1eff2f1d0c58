"""What a key of ``hive.yaml`` is: its type, its description, the variables that override it, its form.

A section is a frozen Struct whose fields are ``Annotated[type, key("description", …)]``. That one declaration
feeds the reader, ``config explain``, the JSON Schema and ``docs/reference/configuration.md``; nothing about a
key is written twice. Secrets are hidden in every ``repr``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import msgspec
from msgspec import inspect

from .forms import FORMS

__all__ = ["KeyFacts", "Leaf", "Section", "key", "leaves", "section_names"]


class KeyFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about one key beyond its type.

    Args:
        description: one or two sentences for people.
        form: name of an entry of :data:`~appliance.settings.forms.FORMS` that a text must fit.
        env: variables that override the file, first set one wins; ``{parent}`` stands for the section's name
            in upper case.
        notice: why setting this key has no effect here, when it has none.
        warning: why setting this key *in the file* is unwise, when it is.
        secret: the value is never shown.
        derived: what the value follows when it is not given, in words (``<lib>/blob``).
        aliases: other spellings of a choice.
        ge, le: bounds of a number, or of each number of a list; inclusive.
    """

    description: str
    ge: float | None = None
    le: float | None = None
    form: str | None = None
    env: tuple[str, ...] = ()
    notice: str | None = None
    warning: str | None = None
    secret: bool = False
    derived: str | None = None
    aliases: dict[str, str] = {}


_NO_FACTS = KeyFacts(description="")


def key(
    description: str,
    *,
    ge: float | None = None,
    le: float | None = None,
    form: str | None = None,
    env: tuple[str, ...] = (),
    notice: str | None = None,
    warning: str | None = None,
    secret: bool = False,
    derived: str | None = None,
    aliases: dict[str, str] | None = None,
) -> msgspec.Meta:
    """The annotation of a field; see :class:`KeyFacts`.

    The bounds are kept here and not in msgspec's own ``ge``/``le``, which cannot stand on ``int | None``.
    """
    facts = KeyFacts(
        description=description,
        ge=ge,
        le=le,
        form=form,
        env=env,
        notice=notice,
        warning=warning,
        secret=secret,
        derived=derived,
        aliases=aliases or {},
    )
    return msgspec.Meta(extra={"facts": facts})


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every section: immutable, strict, and silent about its secrets."""

    def __repr__(self) -> str:
        hidden = _secret_fields(type(self))
        shown = (
            f"{name}=<hidden>"
            if name in hidden and getattr(self, name) is not None
            else f"{name}={getattr(self, name)!r}"
            for name in self.__struct_fields__
        )
        return f"{type(self).__name__}({', '.join(shown)})"


class Leaf(msgspec.Struct, frozen=True, kw_only=True):
    """One settable key: its dotted name, and the default that an absent one means (``None``: ``derived``)."""

    name: str
    type: inspect.Type
    facts: KeyFacts
    default: object

    @property
    def env(self) -> tuple[str, ...]:
        """The variables that override this key."""
        parents = self.name.split(".")[:-1]
        parent = parents[-1].upper() if parents else ""
        return tuple(name.format(parent=parent) for name in self.facts.env)

    @property
    def expects(self) -> str:
        """What a value must be, in words: ``a whole number from 1 to 65535``."""
        return expectation(self.type, self.facts)


def expectation(of: inspect.Type, facts: KeyFacts) -> str:
    """What a value of this type must be, in words."""
    bare = strip(of)
    if isinstance(bare, inspect.IntType):
        return "a whole number" + _range(facts)
    if isinstance(bare, inspect.FloatType):
        return "a number" + _range(facts)
    if isinstance(bare, inspect.BoolType):
        return "true or false"
    if isinstance(bare, inspect.LiteralType):
        return "one of " + ", ".join(str(value) for value in bare.values)
    if isinstance(bare, inspect.VarTupleType):
        item = expectation(bare.item_type, facts)
        return f"a list, each item {item}"
    if isinstance(bare, inspect.StructType):
        fields = ", ".join(field.name for field in bare.fields)
        return f"a section with {fields}"
    return FORMS[facts.form].expects if facts.form else "text"


def _range(facts: KeyFacts) -> str:
    return "" if facts.ge is None else f" from {facts.ge} to {facts.le}"


def strip(of: inspect.Type) -> inspect.Type:
    """The type without its metadata and without ``| None``: an absent key and a null one mean the same."""
    while True:
        if isinstance(of, inspect.Metadata):
            of = of.type
        elif isinstance(of, inspect.UnionType):
            of = next(one for one in of.types if not isinstance(strip(one), inspect.NoneType))
        else:
            return of


def facts_of(of: inspect.Type) -> KeyFacts:
    """The facts that :func:`key` attached to a field's type."""
    facts = (of.extra or {}).get("facts") if isinstance(of, inspect.Metadata) else None
    return facts if isinstance(facts, KeyFacts) else _NO_FACTS


def _walk(struct: inspect.StructType, prefix: str) -> Iterator[Leaf]:
    for field in struct.fields:
        name, bare = prefix + field.name, strip(field.type)
        if isinstance(bare, inspect.StructType):
            yield from _walk(bare, name + ".")
        else:
            yield Leaf(
                name=name,
                type=field.type,
                facts=facts_of(field.type),
                default=field.default_factory()
                if field.default_factory is not msgspec.NODEFAULT
                else field.default,
            )


@functools.cache
def struct_type(section: type[Section]) -> inspect.StructType:
    """msgspec's view of a section."""
    found = inspect.type_info(section)
    assert isinstance(found, inspect.StructType)
    return found


@functools.cache
def leaves(section: type[Section]) -> dict[str, Leaf]:
    """Every key below ``section`` by dotted name, in the order of declaration."""
    return {leaf.name: leaf for leaf in _walk(struct_type(section), "")}


@functools.cache
def section_names(section: type[Section]) -> tuple[str, ...]:
    """Every dotted name below ``section`` that is a section itself."""
    names: dict[str, None] = {}
    for leaf in leaves(section):
        parts = leaf.split(".")
        for depth in range(1, len(parts)):
            names[".".join(parts[:depth])] = None
    return tuple(names)


@functools.cache
def _secret_fields(section: type[Section]) -> frozenset[str]:
    return frozenset(name for name, leaf in leaves(section).items() if leaf.facts.secret)
