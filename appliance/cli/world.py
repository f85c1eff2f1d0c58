"""``fluxbee world …``: publish events and see what is, over the world's door."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from urllib.parse import quote, urlencode

from appliance.wire.errors import Invalid

from .frame import Verbs, add_verb, add_verb_group, completes
from .output import ExitCode, clean, paint, print_fields, print_json, print_table
from .world_sources import add_source_verbs
from .world_words import add_common, api_of, parsed, plain, show

__all__ = ["add_parser"]


def add_parser(verbs: Verbs) -> None:
    """Add ``world``."""
    group = add_verb_group(
        verbs,
        "world",
        summary="publish events and see the state of the world",
        examples=[
            ("fluxbee world publish sensors lab lab/lamp-1 '{\"on\": true}'", "one event"),
            ("fluxbee world list --prefix lab/", "what is"),
            ("fluxbee world watch", "what changes, live"),
        ],
    )
    _add_reading(group)
    _add_writing(group)
    add_source_verbs(group)
    _add_administration(group)


def _add_reading(group: Verbs) -> None:
    health = add_verb(
        group, "health", _health, summary="is the world there", examples=[("fluxbee world health", "")]
    )
    get = add_verb(
        group, "get", _get, summary="show one entity", examples=[("fluxbee world get lab/lamp-1", "")]
    )
    get.add_argument("entity", metavar="ENTITY", help="its id")
    get.add_argument("--at", metavar="WHEN", help="as it was: a sequence number or an RFC 3339 time")
    listing = add_verb(
        group,
        "list",
        _list,
        summary="show entities",
        examples=[("fluxbee world list --prefix lab/", ""), ("fluxbee world list --namespace plant", "")],
    )
    listing.add_argument("--prefix", metavar="P", help="ids that begin so")
    listing.add_argument("--namespace", metavar="N", help="ids of this namespace: N/…")
    history = add_verb(
        group,
        "history",
        _history,
        summary="what happened to an entity, newest first",
        examples=[("fluxbee world history lab/lamp-1 --limit 10", "")],
    )
    history.add_argument("entity", metavar="ENTITY", help="its id")
    history.add_argument("--limit", metavar="N", type=int, default=50, help="at most so many (default 50)")
    history.add_argument("--since", metavar="TIME", help="not before this RFC 3339 time (default: a day)")
    watch = add_verb(
        group,
        "watch",
        _watch,
        summary="show changes as they happen, until Ctrl-C",
        examples=[("fluxbee world watch lab/lamp-1", ""), ("fluxbee world watch --json", "one frame a line")],
    )
    watch.add_argument("entities", metavar="ENTITY", nargs="*", help="only these (default: all)")
    watch.add_argument("--count", metavar="N", type=int, help="end after so many frames")
    for parser in (health, get, listing, history, watch):
        add_common(parser)


def _add_writing(group: Verbs) -> None:
    publish = add_verb(
        group,
        "publish",
        _publish,
        summary="publish one event",
        examples=[("fluxbee world publish sensors lab lab/lamp-1 '{\"on\": true}'", "")],
    )
    for name, text in (
        ("stream", "topic: a-z, 0-9 and dots"),
        ("source", "who says it"),
        ("entity", "id of the entity"),
        ("properties", "a JSON object"),
    ):
        publish.add_argument(name, metavar=name.upper(), help=text)
    publish.add_argument("--id", metavar="ID", help="event id; the same one is stored once")
    batch = add_verb(
        group,
        "batch",
        _batch,
        summary="publish many events, all or none",
        examples=[
            ("fluxbee world batch events.json", ""),
            ("… | fluxbee world batch -", "from standard input"),
        ],
    )
    batch.add_argument(
        "events", metavar="EVENTS", help="a JSON array, a file with one, or - for standard input"
    )
    delete = add_verb(
        group,
        "delete",
        _delete,
        summary="delete one entity",
        examples=[("fluxbee world delete lab/lamp-1", "")],
    )
    delete.add_argument("entity", metavar="ENTITY", help="its id")
    many = add_verb(
        group,
        "batch-delete",
        _batch_delete,
        summary="delete many entities",
        examples=[("fluxbee world batch-delete --prefix tmp-", ""), ("fluxbee world batch-delete a b c", "")],
    )
    many.add_argument("entities", metavar="ENTITY", nargs="*", help="their ids")
    many.add_argument("--prefix", metavar="P", help="all ids that begin so")
    many.add_argument("--namespace", metavar="N", help="all of this namespace")
    for parser in (publish, batch, delete, many):
        add_common(parser)


def _add_administration(group: Verbs) -> None:
    config = add_verb(
        group,
        "admin-config",
        _admin_config,
        summary="show the world's limits, or change them",
        examples=[
            ("fluxbee world admin-config", ""),
            ("fluxbee world admin-config rate_limit_enabled=false", "needs FLUX_ADMIN_TOKEN"),
        ],
    )
    config.add_argument("changes", metavar="KEY=VALUE", nargs="*", help="what to change")
    namespace = add_verb(
        group,
        "namespace",
        _namespace,
        summary="create, show, rotate or delete a namespace",
        examples=[("fluxbee world namespace create plant", "prints its token, once")],
    )
    namespace.add_argument(
        "act", metavar="ACT", choices=sorted(_NAMESPACE_ACTS), help=", ".join(sorted(_NAMESPACE_ACTS))
    )
    namespace.add_argument("name", metavar="NAME", help="3 to 32 of a-z, 0-9, - and _")
    for parser in (config, namespace):
        add_common(parser)
    for name, handler, summary in (
        ("backup", _backup, "write the whole world into a file"),
        ("restore", _restore, "replace the world by a backup"),
    ):
        parser = add_verb(
            group, name, handler, summary=summary, examples=[(f"fluxbee world {name} world.backup", "")]
        )
        completes(parser.add_argument("file", metavar="FILE", help="the backup"), "file")
        add_common(parser)


# --- reading -----------------------------------------------------------------------------------------------


def _health(args: argparse.Namespace) -> int:
    api = api_of(args)
    count = api.reachable()
    if args.json:
        print_json({"url": api.base, "entities": count})
    else:
        sys.stdout.write(f"{api.base} is reachable; {count} entities\n")
    return ExitCode.OK


def _get(args: argparse.Namespace) -> int:
    from .world_api import entity_path

    query = ""
    if args.at:
        query = f"?{urlencode({'seq' if args.at.isdigit() else 'at': args.at})}"
    entity = api_of(args).call("GET", entity_path(args.entity) + query)
    if args.json or not isinstance(entity, dict):
        print_json(entity)
        return ExitCode.OK
    sys.stdout.write(f"{paint(clean(entity['id']), 'bold', sys.stdout)}  {clean(entity['lastUpdated'])}\n")
    print_fields((clean(name), plain(value)) for name, value in entity["properties"].items())
    return ExitCode.OK


def _list(args: argparse.Namespace) -> int:
    wanted = {
        name: getattr(args, name) for name in ("prefix", "namespace") if getattr(args, name) is not None
    }
    query = f"?{urlencode(wanted)}" if wanted else ""
    entities = api_of(args).call("GET", f"/api/state/entities{query}")
    if args.json or not isinstance(entities, list):
        print_json(entities)
        return ExitCode.OK
    print_table(
        ["ENTITY", "UPDATED", "PROPERTIES"],
        [
            (one["id"], one["lastUpdated"][:19], json.dumps(one["properties"], ensure_ascii=False))
            for one in entities
        ],
    )
    return ExitCode.OK


def _history(args: argparse.Namespace) -> int:
    wanted = {"entity": args.entity, "limit": args.limit}
    if args.since:
        wanted["since"] = args.since
    events = api_of(args).call("GET", f"/api/events?{urlencode(wanted)}")
    if args.json or not isinstance(events, list):
        print_json(events)
        return ExitCode.OK
    rows = [
        (_time(one["timestamp"]), one["stream"], one["source"], plain(one["payload"].get("properties")))
        for one in events
    ]
    print_table(["WHEN", "STREAM", "SOURCE", "PROPERTIES"], rows)
    return ExitCode.OK


def _time(at_ms: int) -> str:
    from datetime import datetime

    try:
        return datetime.fromtimestamp(at_ms / 1000).astimezone().isoformat(timespec="milliseconds")
    except (OverflowError, OSError, ValueError):
        return str(at_ms)


def _watch(args: argparse.Namespace) -> int:
    left = args.count if args.count is not None else -1
    for frame in api_of(args).feed(tuple(args.entities) or ("*",)):
        if args.json:
            sys.stdout.write(json.dumps(frame, ensure_ascii=False) + "\n")
        elif frame.get("type") == "state_update":
            value = paint(clean(plain(frame["value"])), "bold", sys.stdout)
            name = f"{clean(frame['entity_id'])} {clean(frame['property'])}"
            sys.stdout.write(f"{str(frame['timestamp'])[11:23]}  {name} = {value}\n")
        elif frame.get("type") == "entity_deleted":
            sys.stdout.write(f"{str(frame['timestamp'])[11:23]}  {clean(frame['entity_id'])} deleted\n")
        else:
            continue
        sys.stdout.flush()
        left -= 1
        if left == 0:
            break
    return ExitCode.OK


# --- writing -----------------------------------------------------------------------------------------------


def _publish(args: argparse.Namespace) -> int:
    payload = {"entity_id": args.entity, "properties": parsed(args.properties, "PROPERTIES")}
    event: dict[str, object] = {"stream": args.stream, "source": args.source, "payload": payload}
    if args.id:
        event["eventId"] = args.id
    return show(args, api_of(args).call("POST", "/api/events", event))


def _batch(args: argparse.Namespace) -> int:
    text = args.events
    if text == "-":
        text = sys.stdin.read()
    elif not text.lstrip().startswith(("[", "{")):
        text = Path(text).read_text()
    events = parsed(text, "EVENTS")
    if not isinstance(events, list):
        raise Invalid("EVENTS is no JSON array", field="EVENTS")
    answer = api_of(args).call("POST", "/api/events/batch", {"events": events})
    show(args, answer)
    failed = answer.get("failed") if isinstance(answer, dict) else None
    return ExitCode.FAILED if failed else ExitCode.OK


def _delete(args: argparse.Namespace) -> int:
    from .world_api import entity_path

    return show(args, api_of(args).call("DELETE", entity_path(args.entity)))


def _batch_delete(args: argparse.Namespace) -> int:
    body: dict[str, object] = {
        name: getattr(args, name) for name in ("prefix", "namespace") if getattr(args, name) is not None
    }
    if args.entities:
        body["entity_ids"] = args.entities
    if len(body) != 1:
        raise Invalid("give ids, or --prefix, or --namespace", field="ENTITY")
    return show(args, api_of(args).call("POST", "/api/state/entities/delete", body))


# --- administration ----------------------------------------------------------------------------------------


def _admin_config(args: argparse.Namespace) -> int:
    if not args.changes:
        return show(args, api_of(args).call("GET", "/api/admin/config"))
    update: dict[str, object] = {}
    for change in args.changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise Invalid(f"{change!r} is not KEY=VALUE", field="KEY=VALUE")
        update[key] = parsed(value, key)
    return show(args, api_of(args).administer("PUT", "/api/admin/config", update))


_NAMESPACE_ACTS = {
    "create": ("POST", "/api/namespaces"),
    "show": ("GET", "/api/namespaces/{name}"),
    "rotate": ("POST", "/api/namespaces/{name}/rotate"),
    "delete": ("DELETE", "/api/namespaces/{name}"),
}


def _namespace(args: argparse.Namespace) -> int:
    method, path = _NAMESPACE_ACTS[args.act]
    body = {"name": args.name} if args.act == "create" else None
    api = api_of(args)
    ask = api.call if args.act == "show" else api.administer
    answer = ask(method, path.format(name=quote(args.name, safe="")), body)
    return show(args, answer if answer is not None else {"deleted": args.name})


def _backup(args: argparse.Namespace) -> int:
    size = api_of(args).download("/api/admin/backup", Path(args.file))
    return show(args, {"file": args.file, "bytes": size})


def _restore(args: argparse.Namespace) -> int:
    return show(args, api_of(args).upload("/api/admin/restore", Path(args.file)))
