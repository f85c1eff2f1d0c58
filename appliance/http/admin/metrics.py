"""Prometheus text from frozen statistics (format 0.0.4). Sans-IO.

A number in the field ``f`` of service ``s`` is ``fluxbee_s_f``; nested Structs add their field names, a
mapping or a list becomes one metric with a label. Texts and nulls are left out. A name does not change unless
its field does. What is a counter and what a gauge stands in :mod:`.metric_words`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from .metric_words import help_of, is_gauge

__all__ = ["render"]

_UNFIT: Final = re.compile(r"[^a-zA-Z0-9_]")

Labels = tuple[tuple[str, str], ...]


class _Metric(msgspec.Struct):
    """One metric: what it is, and its samples."""

    gauge: bool
    help: str
    samples: list[tuple[Labels, float]]


def render(sources: Iterable[tuple[str, object]], *, build: Mapping[str, str] | None = None) -> bytes:
    """The text for ``(service, statistics)`` pairs; statistics that are ``None`` mean: it did not answer.

    ``fluxbee_source_up`` says of each service whether it told its numbers; ``build`` becomes the labels of
    ``fluxbee_build_info``.
    """
    found = _Collection()
    if build is not None:
        found.add("fluxbee_build_info", "build", "info", tuple(build.items()), True)
    for service, statistics in sources:
        up = statistics is not None
        found.add("fluxbee_source_up", service, "up", (("source", service),), up)
        if up:
            found.collect(f"fluxbee_{_name(service)}", service, "", statistics, ())
    return found.text().encode()


class _Collection:
    """Metrics by name, in the order of their names."""

    def __init__(self) -> None:
        self._metrics: dict[str, _Metric] = {}

    def add(self, name: str, source: str, field: str, labels: Labels, value: float) -> None:
        metric = self._metrics.get(name)
        if metric is None:
            gauge = is_gauge(name, field, value)
            metric = _Metric(gauge, help_of(name, source, field, gauge=gauge), [])
            self._metrics[name] = metric
        metric.samples.append((labels, float(value) if isinstance(value, bool) else value))

    def collect(self, name: str, source: str, field: str, value: object, labels: Labels) -> None:
        """Everything in ``value`` that is a number."""
        if isinstance(value, bool | int | float):
            self.add(name, source, field, labels, value)
        elif isinstance(value, msgspec.Struct):
            for key in value.__struct_fields__:
                self.collect(f"{name}_{_name(key)}", source, key, getattr(value, key), labels)
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                word = str(key)
                if field == "" or isinstance(inner, Mapping | msgspec.Struct | list | tuple):
                    self.collect(f"{name}_{_name(word)}", source, word, inner, labels)
                else:
                    self.collect(name, source, field, inner, (*labels, ("name", word)))
        elif isinstance(value, list | tuple):
            for index, inner in enumerate(value):
                self.collect(name, source, field, inner, (*labels, ("name", _title(inner, index))))

    def text(self) -> str:
        lines: list[str] = []
        for name, metric in sorted(self._metrics.items()):
            lines.append(f"# HELP {name} {_helped(metric.help)}\n")
            lines.append(f"# TYPE {name} {'gauge' if metric.gauge else 'counter'}\n")
            lines += [f"{name}{_labels(labels)} {_number(value)}\n" for labels, value in metric.samples]
        return "".join(lines)


def _title(value: object, index: int) -> str:
    named = value.get("name") if isinstance(value, Mapping) else getattr(value, "name", None)
    return named if isinstance(named, str) else str(index)


def _name(text: str) -> str:
    return _UNFIT.sub("_", text)


def _helped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


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
