"""How a node's process is started: its environment, its directory, its limits.

A node gets its name, the root of the hive when it is not the usual one, a way to call this program and
little else (``spec/admin-api.md §D.3``, launch). Nothing else of our environment reaches it, so no secret of
ours does.
"""

from __future__ import annotations

import errno
import os
import pwd
import shlex
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from appliance.keeper.nodes_protocol import NodeLaunch
from appliance.sdk.managed import NODE_NAME_ENV
from appliance.settings.own import NodeLimits, Orchestrator
from appliance.store.files import storage_error
from appliance.system.paths import ROOT_ENV, Paths
from appliance.wire.errors import Damaged, Misconfigured

from .instance import Instance

__all__ = ["BIN_ENV", "LaunchMaker", "hand_over", "package_limits", "program_for_nodes"]

BIN_ENV = "FLUXBEE_BIN"
"""Path of a program that is ``fluxbee``: a node's start script calls ``"$FLUXBEE_BIN" node run …``."""

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LARGEST_PACKAGE_BYTES = 1 << 20


class _Package(msgspec.Struct):
    limits: NodeLimits | None = None


def package_limits(package: Path, default: NodeLimits) -> NodeLimits:
    """``limits`` of the package in ``package``; what it does not say is taken from ``default``.

    Raises:
        Damaged: ``INVALID_PACKAGE_LAYOUT``, ``limits`` has another shape or a number below 1.
    """
    try:
        with (package / "package.json").open("rb") as file:
            data = file.read(_LARGEST_PACKAGE_BYTES)
        own = msgspec.json.decode(data, type=_Package).limits
    except FileNotFoundError:
        return default
    except OSError as error:
        raise storage_error(error, str(package)) from error
    except msgspec.DecodeError as error:
        raise Damaged(f"{package}/package.json: {error}", code="INVALID_PACKAGE_LAYOUT") from error
    if own is None:
        return default
    given = {key: value for key, value in msgspec.structs.asdict(own).items() if value is not None}
    if any(value < 1 for value in given.values()):
        raise Damaged(f"{package}/package.json: a limit is at least 1", code="INVALID_PACKAGE_LAYOUT")
    return msgspec.structs.replace(default, **given)


def program_for_nodes(paths: Paths) -> Path:
    """A program that runs this one: the frozen binary, the installed script, else a small script of ours.

    Raises:
        Unavailable: that script cannot be written.
    """
    here = Path(sys.executable)
    if getattr(sys, "frozen", False):
        return here
    beside = here.parent / "fluxbee"
    if beside.is_file():
        return beside
    wrapper = paths.run / "bin" / "fluxbee"
    packages = shlex.quote(str(Path(__file__).resolve().parents[2]))
    text = (
        "#!/bin/sh\n"
        f"PYTHONPATH={packages}${{PYTHONPATH:+:$PYTHONPATH}}\nexport PYTHONPATH\n"
        f'exec {shlex.quote(str(here))} -m appliance "$@"\n'
    )
    try:
        wrapper.parent.mkdir(parents=True, exist_ok=True)
        draft = wrapper.with_suffix(f".{os.getpid()}")
        draft.write_text(text)
        draft.chmod(0o755)
        draft.rename(wrapper)
    except OSError as error:
        raise storage_error(error, str(wrapper)) from error
    return wrapper


class LaunchMaker:
    """Makes launches; the way to call this program is found once.

    Args:
        paths: of the hive.
        settings: ``orchestrator.*``.
        environment: where PATH, HOME and LANG come from; default that of this process.
    """

    def __init__(
        self, paths: Paths, settings: Orchestrator, environment: Mapping[str, str] | None = None
    ) -> None:
        self._paths = paths
        self._settings = settings
        self._outer = os.environ if environment is None else environment
        self._program: Path | None = None

    def launch(self, name: str, unit: str, script: Path, package: Path) -> NodeLaunch:
        """How to start the node ``name`` with ``script``; ``package`` gives the limits.

        Raises:
            Damaged: the package's limits are wrong.
            Misconfigured: ``orchestrator.node_user`` names nobody.
            Unavailable: a directory cannot be made.
        """
        settings = self._settings
        instance = Instance(self._paths, name)
        hand_over(instance, settings.node_user)
        limits = package_limits(package, settings.limits)
        return NodeLaunch(
            name=name,
            unit=unit,
            argv=(str(script.absolute()),),
            env=self._environment(name),
            cwd=str(instance.directory.absolute()),
            log_dir=str((self._paths.node_logs / name).absolute()),
            user=settings.node_user,
            memory_bytes=limits.memory_bytes,
            pids=limits.pids,
            cpu_weight=limits.cpu_weight,
            stop_grace_s=float(settings.kill_grace_s),
        )

    def _environment(self, name: str) -> dict[str, str]:
        if self._program is None:
            self._program = program_for_nodes(self._paths).absolute()
        outer = self._outer
        environment = {
            NODE_NAME_ENV: name,
            BIN_ENV: str(self._program),
            "PATH": f"{self._program.parent}:{outer.get('PATH') or _PATH}",
            "HOME": self._home(),
            "LANG": outer.get("LANG") or "C.UTF-8",
        }
        if self._paths.root is not None:
            environment[ROOT_ENV] = str(self._paths.root.absolute())
        return environment

    def _home(self) -> str:
        user = self._settings.node_user
        return _account(user).pw_dir if user else self._outer.get("HOME") or "/"


def hand_over(instance: Instance, user: str) -> None:
    """Make an instance's directory and files those of the account ``user``; nothing when that is empty.

    A node that runs as another account reads its configuration and writes its state there. Links are never
    followed, and a file with a second name is left alone: the account could have made it point elsewhere.

    Raises:
        Misconfigured: there is no such account.
        Unavailable: we may not, or the medium refuses.
    """
    if not user:
        return
    account = _account(user)
    try:
        if instance.directory.parent.is_dir():
            instance.directory.parent.chmod(0o711)  # to pass, not to list
        for path in (instance.directory, instance.config_path, instance.state_path):
            _give(path, account)
    except OSError as error:
        raise storage_error(error, str(instance.directory)) from error


def _give(path: Path, account: pwd.struct_passwd) -> None:
    """What is looked at is what is given: by descriptor, since the account may exchange the name."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
            return
        raise
    try:
        at = os.fstat(fd)
        own = stat.S_ISDIR(at.st_mode) or (stat.S_ISREG(at.st_mode) and at.st_nlink == 1)
        if own and at.st_uid != account.pw_uid:
            os.fchown(fd, account.pw_uid, account.pw_gid)
    finally:
        os.close(fd)


def _account(user: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(user)
    except KeyError:
        raise Misconfigured(
            f"hive.yaml: orchestrator.node_user: there is no account {user!r}",
            remedy="Create the account, or leave the key empty.",
        ) from None
