"""Rules that span several keys, and the notices about keys that do nothing here.

Each rule names the keys that it reads: a rule is not asked when one of them was wrong already, so that one
mistake gives one message.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from .forms import is_loopback, split_address
from .keys import Leaf, leaves
from .problems import DEFAULT, Notice, Problem, Source
from .schema import MOTHERBEE, Settings

__all__ = ["INERT_ENVIRONMENT", "NOTICE_CODES", "check_rules", "notices"]

Sources = Mapping[str, Source]

NOTICE_CODES = {
    "CONFIG_KEY_INERT": "The key is accepted so that existing files load, but nothing here reads it.",
    "CONFIG_ENV_INERT": "The variable belongs to the reference's world server and has no effect here.",
    "CONFIG_DISCOURAGED": "The key works, but the value should lie elsewhere.",
    "CONFIG_SECRET_READABLE": "The file holds a secret and everybody on the box can read it.",
    "CONFIG_SECURITY_RELAXED": "The setting lets any local process act as another; meant for development.",
}
"""Every code that :func:`notices` uses, with its explanation."""

INERT_ENVIRONMENT = {
    "FLUX_CONFIG": "the TOML file is not read; its values have keys under `world` in hive.yaml",
    "FLUX_NAMESPACE_DB": "namespaces lie in the world journal",
    "FLUX_CREDENTIALS_DB": "credentials lie in the journal world.connectors",
}
"""Variables of the reference's world server without effect here."""


def _motherbee_has_its_name(settings: Settings) -> str | None:
    if settings.role == "motherbee" and settings.hive_id not in (None, MOTHERBEE):
        return "a motherbee is called `motherbee`; leave hive_id out, or set role: worker"
    return None


def _name_is_reserved(settings: Settings) -> str | None:
    if settings.role == "worker" and settings.hive_id == MOTHERBEE:
        return "the name `motherbee` belongs to the motherbee; set role: motherbee, or choose another name"
    return None


def _admin_token_off_loopback(settings: Settings) -> str | None:
    if not is_loopback(split_address(settings.admin.listen)[0]) and settings.http.token is None:
        return f"{settings.admin.listen} can be reached from outside; set http.token, or listen on 127.0.0.1"
    return None


def _world_auth_off_loopback(settings: Settings) -> str | None:
    off = not is_loopback(split_address(settings.world.listen)[0])
    if off and not settings.world.auth_enabled and settings.http.token is None:
        return (
            f"{settings.world.listen} can be reached from outside; set world.auth_enabled: true"
            " or http.token, or listen on 127.0.0.1"
        )
    return None


def _client_mode_has_url(settings: Settings) -> str | None:
    if settings.nats.mode == "client" and settings.nats.url is None:
        return "nats.mode is client; nats.url must name the server"
    return None


def _doors_differ(settings: Settings) -> str | None:
    admin, world = split_address(settings.admin.listen), split_address(settings.world.listen)
    if admin == world and admin[1] != 0:
        return f"admin.listen has the same address {settings.admin.listen}; every door needs its own"
    return None


def _batch_not_below_single(settings: Settings) -> str | None:
    if settings.world.limits.batch_bytes < settings.world.limits.single_bytes:
        return f"must be at least world.limits.single_bytes ({settings.world.limits.single_bytes})"
    return None


def _burst_fits_into_a_day(settings: Settings) -> str | None:
    if settings.turns.daily_bytes < settings.turns.burst_bytes:
        return f"must be at least turns.burst_bytes ({settings.turns.burst_bytes})"
    return None


def _stall_before_pause(settings: Settings) -> str | None:
    if settings.queues.stall_ms > settings.queues.pause_ms:
        return f"must be at most queues.pause_ms ({settings.queues.pause_ms})"
    return None


Rule = Callable[[Settings], str | None]

_RULES: tuple[tuple[str, tuple[str, ...], Rule], ...] = (
    ("hive_id", ("role",), _motherbee_has_its_name),
    ("hive_id", ("role",), _name_is_reserved),
    ("admin.listen", ("http.token",), _admin_token_off_loopback),
    ("world.listen", ("http.token", "world.auth_enabled"), _world_auth_off_loopback),
    ("world.listen", ("admin.listen",), _doors_differ),
    ("nats.url", ("nats.mode",), _client_mode_has_url),
    ("world.limits.batch_bytes", ("world.limits.single_bytes",), _batch_not_below_single),
    ("turns.daily_bytes", ("turns.burst_bytes",), _burst_fits_into_a_day),
    ("queues.stall_ms", ("queues.pause_ms",), _stall_before_pause),
)


def check_rules(settings: Settings, sources: Sources, broken: set[str]) -> Iterator[Problem]:
    """What is wrong between keys that are right by themselves.

    Args:
        settings: the values; a broken key has its default.
        sources: where each given value came from.
        broken: keys that have a problem already.
    """
    for key, others, rule in _RULES:
        if broken.intersection((key, *others)):
            continue
        message = rule(settings)
        if message is not None:
            given = next((sources[name] for name in (key, *others) if name in sources), DEFAULT)
            yield Problem(source=given, key=key, message=message)


def notices(settings: Settings, sources: Sources, environ: Mapping[str, str], file: Path) -> Iterator[Notice]:
    """What is worth knowing about an accepted configuration that was read from ``file``."""
    every = leaves(Settings)
    for key, source in sources.items():
        leaf = every.get(key)
        if leaf is not None and source.kind not in ("default", "derived"):
            yield from _about_key(leaf, source)
    yield from _readable_secret(every, sources, file)
    for name, message in INERT_ENVIRONMENT.items():
        if environ.get(name, "").strip():
            source = Source(kind="environment", name=name)
            yield Notice(code="CONFIG_ENV_INERT", level="notice", source=source, key=name, message=message)
    if settings.security.local == "open":
        yield _relaxed("security.local", sources, "any local process may claim any uuid and name")
    if "*" in settings.security.admin_nodes:
        yield _relaxed("security.admin_nodes", sources, "any local peer may change routes and give commands")


def _about_key(leaf: Leaf, source: Source) -> Iterator[Notice]:
    if leaf.facts.notice is not None:
        yield Notice(
            code="CONFIG_KEY_INERT", level="notice", source=source, key=leaf.name, message=leaf.facts.notice
        )
    if leaf.facts.warning is not None and source.kind == "file":
        yield Notice(
            code="CONFIG_DISCOURAGED",
            level="warning",
            source=source,
            key=leaf.name,
            message=leaf.facts.warning,
        )


def _readable_secret(every: Mapping[str, Leaf], sources: Sources, file: Path) -> Iterator[Notice]:
    secrets = (key for key, source in sources.items() if source.kind == "file" and every[key].facts.secret)
    key = next(secrets, None)
    if key is None:
        return
    try:
        mode = file.stat().st_mode
    except OSError:
        return  # gone since it was read: there is nothing left that anybody could read
    if mode & stat.S_IROTH:
        message = f"everybody on the box can read this file (mode {stat.S_IMODE(mode):04o})"
        yield Notice(
            code="CONFIG_SECRET_READABLE",
            level="warning",
            source=sources[key],
            key=key,
            message=message + _remedy(every[key]),
        )


def _remedy(leaf: Leaf) -> str:
    return f"; give the value in {leaf.env[0]}, or chmod 640" if leaf.env else "; chmod 640"


def _relaxed(key: str, sources: Sources, message: str) -> Notice:
    return Notice(
        code="CONFIG_SECURITY_RELAXED",
        level="warning",
        source=sources.get(key, DEFAULT),
        key=key,
        message=message,
    )
