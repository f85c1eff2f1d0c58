"""The reference page and the JSON Schema of ``hive.yaml``, both made from the Structs.

``docs/reference/configuration.md`` and ``config/hive.schema.json`` are the stored output of
``fluxbee config schema``; a test compares them, so that neither can lag behind the code.
"""

from __future__ import annotations

import json

from msgspec import inspect

from .forms import FORMS
from .keys import KeyFacts, Leaf, Section, facts_of, leaves, strip, struct_type
from .rules import INERT_ENVIRONMENT, NOTICE_CODES
from .schema import Settings

__all__ = ["json_schema", "markdown", "show"]

_TYPE_NAME = {inspect.IntType: "integer", inspect.FloatType: "number", inspect.BoolType: "boolean"}

Schema = dict[str, object]


def json_schema() -> str:
    """``hive.yaml`` as a JSON Schema (draft 2020-12), for editors."""
    top: Schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "hive.yaml of Fluxbee Edge",
        **_object(struct_type(Settings)),
    }
    return json.dumps(top, indent=2, ensure_ascii=False) + "\n"


def _object(struct: inspect.StructType) -> Schema:
    properties: Schema = {}
    for field in struct.fields:
        bare, facts = strip(field.type), facts_of(field.type)
        schema = _typed(bare, facts)
        if facts.description:
            schema["description"] = facts.description + (f" {facts.notice}" if facts.notice else "")
        if facts.notice is not None:
            schema["deprecated"] = True
        if not isinstance(bare, inspect.StructType) and not field.required and field.default is not None:
            schema["default"] = field.default
        properties[field.name] = schema
    schema = {"type": "object", "additionalProperties": False, "properties": properties}
    required = [field.name for field in struct.fields if field.required]
    if required:
        schema["required"] = required
    description = (struct.cls.__doc__ or "").strip()
    return {"description": description, **schema} if description else schema


def _typed(bare: inspect.Type, facts: KeyFacts) -> Schema:
    if isinstance(bare, inspect.StructType):
        return _object(bare)
    if isinstance(bare, inspect.VarTupleType):
        return {"type": "array", "items": _typed(strip(bare.item_type), facts)}
    if isinstance(bare, inspect.LiteralType):
        return {"enum": list(bare.values)}
    if isinstance(bare, inspect.IntType | inspect.FloatType):
        bounds = {"minimum": facts.ge, "maximum": facts.le} if facts.ge is not None else {}
        return {"type": _TYPE_NAME[type(bare)], **bounds}
    if isinstance(bare, inspect.BoolType):
        return {"type": "boolean"}
    pattern = FORMS[facts.form].pattern if facts.form is not None else None
    return {"type": "string", **({"pattern": pattern} if pattern else {})}


def show(value: object) -> str:
    """A value as one would write it in ``hive.yaml``; empty for one that is not set."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "[" + ", ".join(show(item) for item in value) + "]"
    if isinstance(value, Section):
        return (
            "{" + ", ".join(f"{name}: {show(getattr(value, name))}" for name in value.__struct_fields__) + "}"
        )
    return str(value)


_INTRODUCTION = """\
# Configuration: hive.yaml

<!-- Made by `fluxbee config schema --markdown`; change the Structs in appliance/settings, not this page. -->

One file configures a box: `/etc/fluxbee/hive.yaml`, or `etc/hive.yaml` below `root`. It may be absent or
empty: then the box is an unclaimed worker. `fluxbee config check` names every mistake with its line;
`fluxbee config explain KEY` shows what counts and where it came from. `config/hive.schema.json` gives editors
completion.

* Precedence, lowest first: default, file, environment variable, command line. An empty variable is unset.
* An unknown key is an error. So is a key that stands twice, a tag, or a number with a leading zero.
* A text needs no quotes (`hive_id: no` is the text `no`); true and false may be written yes/no and on/off.
* `key:` without a value means the default. Relative paths are relative to the working directory.
* In a variable, booleans are 1/true/yes/on or 0/false/no/off and lists are separated by commas.
* `<lib>` is `/var/lib/fluxbee`, or `lib` below `root`.
"""


def markdown() -> str:
    """The reference page ``docs/reference/configuration.md``."""
    parts = [_INTRODUCTION, "## Top level\n"]
    struct = struct_type(Settings)
    parts.append(_table([leaf for name, leaf in leaves(Settings).items() if "." not in name]))
    for field in struct.fields:
        bare = strip(field.type)
        if isinstance(bare, inspect.StructType):
            below = [leaf for name, leaf in leaves(Settings).items() if name.startswith(field.name + ".")]
            parts.append(f"## {field.name}\n\n{(bare.cls.__doc__ or '').strip()}\n\n{_table(below)}")
    parts.append(_codes())
    return "\n".join(parts)


def _table(rows: list[Leaf]) -> str:
    lines = ["| Key | Default | Value | Meaning |", "|---|---|---|---|"]
    lines.extend(
        f"| `{leaf.name}` | {_default(leaf)} | {_cell(leaf.expects)} | {_cell(_meaning(leaf))} |"
        for leaf in rows
    )
    return "\n".join(lines) + "\n"


def _default(leaf: Leaf) -> str:
    if leaf.default is not None:
        return f"`{show(leaf.default)}`"
    return _cell(leaf.facts.derived) if leaf.facts.derived else "–"


def _meaning(leaf: Leaf) -> str:
    facts = leaf.facts
    words = [facts.description]
    if leaf.env:
        words.append("Environment: " + ", ".join(f"`{name}`" for name in leaf.env) + ".")
    if facts.notice:
        words.append(f"*No effect:* {facts.notice}")
    if facts.warning:
        words.append(f"*Discouraged:* {facts.warning}")
    if facts.secret:
        words.append("Secret: never shown or logged.")
    return " ".join(words)


def _cell(text: str) -> str:
    """Text for a table cell: bars escaped everywhere, angle brackets outside `code` only."""
    parts = text.replace("|", "\\|").split("`")
    parts[::2] = (part.replace("<", "&lt;") for part in parts[::2])
    return "`".join(parts)


def _codes() -> str:
    lines = ["## Notice and warning codes", "", "| Code | Meaning |", "|---|---|"]
    lines.extend(f"| `{code}` | {meaning} |" for code, meaning in NOTICE_CODES.items())
    lines += ["", "Variables of the reference's world server without effect:", ""]
    lines.extend(f"* `{name}`: {meaning}." for name, meaning in INERT_ENVIRONMENT.items())
    lines += [
        "",
        "`PORT`, `NATS_URL` and `RUST_LOG` are not read: such general names are set for other programs;",
        "use `world.listen`, `nats.url` and `log.level`.",
        "",
    ]
    return "\n".join(lines)
