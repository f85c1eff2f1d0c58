"""hive.yaml -> frozen structs; an unknown key is an error that names the nearest one.

``load()`` gives a :class:`Configuration`: the :class:`Settings`, where each value came from, and notices. An
empty file is an unclaimed worker. Nothing here writes a file or opens a connection.
"""

from __future__ import annotations

from .edit import with_value
from .forms import is_loopback, split_address
from .load import Configuration, Explained, load
from .problems import Notice, Problem, SettingsError, Source
from .schema import MOTHERBEE, HiveId, Settings

__all__ = [
    "MOTHERBEE",
    "Configuration",
    "Explained",
    "HiveId",
    "Notice",
    "Problem",
    "Settings",
    "SettingsError",
    "Source",
    "is_loopback",
    "load",
    "split_address",
    "with_value",
]
