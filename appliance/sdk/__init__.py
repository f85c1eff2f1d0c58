"""What a node author imports: connection, requests, text and blobs, configuration, secrets, a runner.

``docs/sdk.md`` is the reference. Runs on trio and on asyncio. Readers of published regions are in
:mod:`appliance.sdk.regions`, which needs LMDB and is not imported here.
"""

from __future__ import annotations

from appliance.wire.envelope import Message, Meta, Routing, build_message, system_message
from appliance.wire.nodeconfig import ConfigSet
from appliance.wire.nodestatus import HealthState
from appliance.wire.text import (
    DirectPair,
    NativeThread,
    PersistentChannel,
    TextPayload,
    compute_thread_id,
    parse_text_payload,
)

from .admin import AdminResult, admin_command, admin_command_ok
from .config import Dial, NodeConfig, UuidMode
from .content import ContentDesk
from .control import ConfigContract, ConfigInForce, NodeControl
from .ends import NodeReceiver, NodeSender
from .instance import ManagedConfig
from .managed import (
    managed_node_config_path,
    managed_node_instance_dir,
    managed_node_name,
    managed_node_state_path,
)
from .memory import MemoryPackage, memory_of
from .node import Node, connect
from .publish import PublishResult, TargetResult, publish_blob_and_confirm
from .replies import deserves_answer, error_payload, payload_of_error, reply, system_reply, text_payload
from .requests import is_router_error
from .runner import Handler, RunStatistics, run_node
from .secrets import (
    SecretDescriptor,
    SecretRecord,
    build_secret_record,
    ensure_secret_dir,
    load_secrets,
    redact_fields,
    save_secrets,
    secret_path,
    split_secrets,
)
from .statistics import NodeStatistics
from .transport import Transport

__all__ = [
    "AdminResult",
    "ConfigContract",
    "ConfigInForce",
    "ConfigSet",
    "ContentDesk",
    "Dial",
    "DirectPair",
    "Handler",
    "HealthState",
    "ManagedConfig",
    "MemoryPackage",
    "Message",
    "Meta",
    "NativeThread",
    "Node",
    "NodeConfig",
    "NodeControl",
    "NodeReceiver",
    "NodeSender",
    "NodeStatistics",
    "PersistentChannel",
    "PublishResult",
    "Routing",
    "RunStatistics",
    "SecretDescriptor",
    "SecretRecord",
    "TargetResult",
    "TextPayload",
    "Transport",
    "UuidMode",
    "admin_command",
    "admin_command_ok",
    "build_message",
    "build_secret_record",
    "compute_thread_id",
    "connect",
    "deserves_answer",
    "ensure_secret_dir",
    "error_payload",
    "is_router_error",
    "load_secrets",
    "managed_node_config_path",
    "managed_node_instance_dir",
    "managed_node_name",
    "managed_node_state_path",
    "memory_of",
    "parse_text_payload",
    "payload_of_error",
    "publish_blob_and_confirm",
    "redact_fields",
    "reply",
    "run_node",
    "save_secrets",
    "secret_path",
    "split_secrets",
    "system_message",
    "system_reply",
    "text_payload",
]
