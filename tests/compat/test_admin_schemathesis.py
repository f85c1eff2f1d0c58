"""The API document and the door agree: generated requests on a real hive, every answer is a documented one.

Changes of the hive itself (removing hives, publishing) are generated too: a hive under test has nothing to
lose. Streams are left out, because they do not end.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings

from appliance.http.admin.openapi import document
from appliance.testing.hive import HiveHarness

pytestmark = [pytest.mark.process, pytest.mark.slow]

_DOCUMENT = document()
for _path in ("/tap", "/metrics", "/docs", "/openapi.json"):
    _DOCUMENT["paths"].pop(_path)
schema = schemathesis.openapi.from_dict(_DOCUMENT)


@pytest.fixture(scope="module")
def hive():
    folder = Path(tempfile.mkdtemp(prefix="fluxbee-"))
    with HiveHarness(folder) as running:
        yield running
    shutil.rmtree(folder)


@schema.parametrize()
@settings(
    max_examples=3,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_a_documented_one(case, hive):
    if case.query and "follow" in case.query:
        del case.query["follow"]
    if case.query and "test_hold_ms" in case.query:
        del case.query["test_hold_ms"]
    response = case.call(base_url=hive.url, timeout=60)
    documented = case.operation.definition.raw["responses"]
    assert str(response.status_code) in documented, response.text
    body = response.json()
    if response.status_code not in (200, 202) and body != {"error": "not_found"}:
        assert body["status"] == "error"
        assert body.get("error_code") != "INTERNAL", body
        assert body.get("error_code", "x") is not None or case.path == "/health"
