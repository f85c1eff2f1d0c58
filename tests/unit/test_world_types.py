"""Wire forms of what the engine answers."""

from __future__ import annotations

import msgspec

from appliance.settings import Settings
from appliance.world import (
    AdminConfig,
    BatchReport,
    DeleteReport,
    NewNamespace,
    OverQuota,
    RateLimited,
    Receipt,
    Result,
    Unauthorized,
    WorldOptions,
)

encode = msgspec.json.encode


def test_answers_have_the_keys_of_the_wire():
    """EP-01, EP-05, EP-45, EP-50, EP-80, HT-02."""
    assert encode(Receipt(event_id="i", stream="s", seq=3)) == b'{"eventId":"i","stream":"s","seq":3}'
    report = BatchReport(successful=1, failed=1, results=[Result("i", "s", None), Result(None, None, "bad")])
    assert encode(report) == (
        b'{"successful":1,"failed":1,"results":[{"eventId":"i","stream":"s","error":null},'
        b'{"eventId":null,"stream":null,"error":"bad"}]}'
    )
    assert encode(DeleteReport(deleted=3)) == b'{"deleted":3,"failed":0,"errors":[]}'
    assert encode(NewNamespace(namespace_id="ns_1", name="plant", token="t")) == (
        b'{"namespaceId":"ns_1","name":"plant","token":"t"}'
    )
    assert encode(AdminConfig()) == (
        b'{"rate_limit_enabled":true,"rate_limit_per_namespace_per_minute":10000,'
        b'"body_size_limit_single_bytes":1048576,"body_size_limit_batch_bytes":10485760}'
    )


def test_errors_have_the_status_of_the_wire():
    assert (Unauthorized("x").status, RateLimited("x").status, OverQuota("x").status) == (401, 429, 507)


def test_options_come_from_the_settings():
    world = msgspec.structs.replace(Settings().world, overlay_bytes=5 << 20, retention_days=2)
    options = WorldOptions.of(world, map_bytes=1 << 30)
    assert (options.overlay_bytes, options.retention_s, options.map_bytes) == (5 << 20, 172_800.0, 1 << 30)
    assert options.defaults == AdminConfig()
    assert options.max_entities == world.max_entities
