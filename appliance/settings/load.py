"""From file, environment and command line to :class:`Configuration`.

Precedence, lowest first: default, ``hive.yaml``, environment, command line. Everything that is wrong is
reported at once in one :class:`SettingsError`. Reads one file; writes and creates nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from appliance.system.paths import ROOT_ENV, Paths

from .keys import Leaf, leaves
from .problems import DEFAULT, Notice, Problem, SettingsError, Source
from .reader import Reading, Value
from .rules import check_rules, notices
from .schema import MOTHERBEE, Settings
from .yamlnodes import MAX_DOCUMENT_BYTES, parse

__all__ = ["Configuration", "Explained", "load"]

HIDDEN = "<hidden>"
"""What is shown instead of a secret that is set."""


class Explained(msgspec.Struct, frozen=True, kw_only=True):
    """One key as it counts: its value (a secret hidden), where it came from, and what is known about it."""

    key: str
    value: object
    source: Source
    default: object
    expects: str
    description: str
    environment: tuple[str, ...] = ()
    derived: str | None = None
    notice: str | None = None


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """An accepted configuration.

    Args:
        settings: the values.
        sources: where each value that somebody gave came from, by dotted key; an absent key is a default.
        notices: what is worth telling the operator; the composition root logs them at start.
        file: the file that was read, ``None`` when there was none.
    """

    settings: Settings
    sources: dict[str, Source]
    notices: tuple[Notice, ...]
    file: str | None

    def source(self, key: str) -> Source:
        """Where the value of ``key`` came from."""
        return self.sources.get(key, DEFAULT)

    def explain(self, prefix: str = "") -> tuple[Explained, ...]:
        """Every key that is ``prefix`` or lies below it, in the order of the schema; empty when none does."""
        return tuple(
            self._explained(leaf)
            for name, leaf in leaves(Settings).items()
            if not prefix or name == prefix or name.startswith(prefix + ".")
        )

    def _explained(self, leaf: Leaf) -> Explained:
        value: object = self.settings
        for part in leaf.name.split("."):
            value = getattr(value, part)
        return Explained(
            key=leaf.name,
            value=HIDDEN if leaf.facts.secret and value is not None else value,
            source=self.source(leaf.name),
            default=leaf.default,
            expects=leaf.expects,
            description=leaf.facts.description,
            environment=leaf.env,
            derived=leaf.facts.derived,
            notice=leaf.facts.notice,
        )


def load(
    config: Path | str | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> Configuration:
    """Read the configuration of this box.

    Args:
        config: the file; ``None`` means ``hive.yaml`` in the place that ``root`` gives, which may be absent.
        environ: variables that override the file; ``None`` means this process's.
        overrides: values from the command line by dotted key, as text.
        directory: what relative paths are relative to; ``None`` means the working directory.

    Returns:
        The configuration; every path in it is absolute.

    Raises:
        SettingsError: (a ``Misconfigured``) with every problem that was found.
    """
    environ = os.environ if environ is None else environ
    overrides = overrides or {}
    directory = Path.cwd() if directory is None else directory
    reading = Reading(Settings)
    path = directory / config if config is not None else _usual_file(environ, overrides, directory)
    label = str(path if config is None else config)
    file = label if _read_file(reading, path, label, required=config is not None) else None
    _read_texts(reading, environ, overrides)
    _make_absolute(reading.values, directory)
    settings = msgspec.convert(reading.values, Settings)
    problems = [*reading.problems, *check_rules(settings, reading.sources, reading.broken)]
    if problems:
        raise SettingsError(tuple(problems))
    sources = dict(reading.sources)
    if settings.role == "motherbee" and settings.hive_id is None:
        settings = msgspec.structs.replace(settings, hive_id=MOTHERBEE)
        sources["hive_id"] = Source(kind="derived", name="role: motherbee")
    worth_saying = tuple(notices(settings, sources, environ, path))
    return Configuration(settings=settings, sources=sources, notices=worth_saying, file=file)


def _usual_file(environ: Mapping[str, str], overrides: Mapping[str, str], directory: Path) -> Path:
    root = overrides.get("root") or environ.get(ROOT_ENV, "").strip() or None
    return Paths(directory / root if root else None).hive_yaml


def _read_file(reading: Reading, path: Path, label: str, *, required: bool) -> bool:
    """Take what the file at ``path``, called ``label`` in messages, says; whether there is one."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_DOCUMENT_BYTES + 1)
    except FileNotFoundError:
        if required:
            reading.problems.append(_file_problem(label, "the file does not exist"))
        return False
    except (OSError, ValueError) as error:
        words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        reading.problems.append(_file_problem(label, f"cannot be read: {words}"))
        return False
    root, problems = parse(data, label)
    reading.problems.extend(problems)
    if root is not None:
        reading.read_document(root)
    return True


def _file_problem(label: str, message: str) -> Problem:
    return Problem(source=Source(kind="file", name=label), key="", message=message)


def _read_texts(reading: Reading, environ: Mapping[str, str], overrides: Mapping[str, str]) -> None:
    every = leaves(Settings)
    for leaf in every.values():
        for name in _set_variables(leaf, environ):
            reading.read_text(leaf, environ[name], Source(kind="environment", name=name))
            break
    for key, text in overrides.items():
        reading.read_text(every[key], text, Source(kind="command line", name=key))


def _set_variables(leaf: Leaf, environ: Mapping[str, str]) -> Iterator[str]:
    """Variables of a key that hold something; an empty one is as good as unset (``flux-state §0.2``)."""
    return (name for name in leaf.env if environ.get(name, "").strip())


def _make_absolute(values: dict[str, Value], directory: Path) -> None:
    """Take paths from the working directory once, so that a later chdir moves nothing."""
    for leaf in leaves(Settings).values():
        if leaf.facts.form == "path":
            *sections, name = leaf.name.split(".")
            into: Value = values
            for section in sections:
                into = into.get(section, {}) if isinstance(into, dict) else {}
            if isinstance(into, dict) and isinstance(text := into.get(name), str):
                into[name] = os.path.normpath(directory / text)
