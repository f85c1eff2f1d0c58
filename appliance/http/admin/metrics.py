"""Prometheus text from frozen statistics (format 0.0.4). Sans-IO.

A number in the field ``f`` of service ``s`` is ``fluxbee_s_f``; nested Structs add their field names, a
mapping or a list becomes one metric with a label. Texts and nulls are left out. A name does not change unless
its field does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

__all__ = ["render"]

_UNFIT: Final = re.compile(r"[^a-zA-Z0-9_]")

Samples = dict[str, list[tuple[tuple[tuple[str, str], ...], float]]]


def render(sources: Iterable[tuple[str, object]], *, build: Mapping[str, str] | None = None) -> bytes:
    """The text for ``(service, statistics)`` pairs; statistics that are ``None`` mean: it did not answer.

    ``fluxbee_source_up`` says of each service whether it told its numbers; ``build`` becomes the labels of
    ``fluxbee_build_info``.
    """
    samples: Samples = {}
    if build is not None:
        samples["fluxbee_build_info"] = [(tuple(build.items()), 1)]
    for service, statistics in sources:
        up = statistics is not None
        samples.setdefault("fluxbee_source_up", []).append(((("source", service),), float(up)))
        if up:
            _collect(samples, f"fluxbee_{_name(service)}", statistics, ())
    lines: list[str] = []
    for name in sorted(samples):
        lines.append(f"# TYPE {name} {_kind(name)}\n")
        for labels, value in samples[name]:
            lines.append(f"{name}{_labels(labels)} {_number(value)}\n")
    return "".join(lines).encode()


def _collect(samples: Samples, name: str, value: object, labels: tuple[tuple[str, str], ...]) -> None:
    if isinstance(value, bool | int | float):
        samples.setdefault(name, []).append((labels, float(value) if isinstance(value, bool) else value))
    elif isinstance(value, msgspec.Struct):
        for field in value.__struct_fields__:
            _collect(samples, f"{name}_{_name(field)}", getattr(value, field), labels)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if isinstance(inner, Mapping | msgspec.Struct | list | tuple):
                _collect(samples, f"{name}_{_name(str(key))}", inner, labels)
            else:
                _collect(samples, name, inner, (*labels, ("name", str(key))))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            _collect(samples, name, inner, (*labels, ("name", _title(inner, index))))


def _title(value: object, index: int) -> str:
    named = value.get("name") if isinstance(value, Mapping) else getattr(value, "name", None)
    return named if isinstance(named, str) else str(index)


def _name(text: str) -> str:
    return _UNFIT.sub("_", text)


def _kind(name: str) -> str:
    if name in ("fluxbee_source_up", "fluxbee_build_info"):
        return "gauge"
    return "counter" if name.endswith("_total") else "untyped"


def _labels(labels: tuple[tuple[str, str], ...]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{key}="{_escaped(value)}"' for key, value in _unique(labels)) + "}"


def _unique(labels: tuple[tuple[str, str], ...]) -> Iterable[tuple[str, str]]:
    """A label that repeats (a list in a list) gets a number; equal names would make the text invalid."""
    seen: dict[str, int] = {}
    for key, value in labels:
        seen[key] = seen.get(key, 0) + 1
        yield (key if seen[key] == 1 else f"{key}_{seen[key]}"), value


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 2**63 else repr(value)
