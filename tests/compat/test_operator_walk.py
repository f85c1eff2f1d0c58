"""The operator's walk in a shell: package, publish with ``--deploy``, readiness, spawn, status, config.

bash, curl and jq against a running box, as on the product's page; nothing of ours but the publisher where
scripts look for it (``target/release/fluxbee-publish``).
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys

import pytest

from appliance.testing.hive import HiveHarness

from .operator_box import HELD, NODE, TENANT

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not (shutil.which("curl") and shutil.which("jq")), reason="needs curl and jq"),
]

WALK = r"""
set -euo pipefail
mkdir -p my-agent/bin my-agent/config
cat > my-agent/package.json <<'JSON'
{"name": "ai.walk", "version": "0.1.0", "type": "full_runtime",
 "config_template": "config/default-config.json"}
JSON
echo '{"model": "small", "temperature": 0.7}' > my-agent/config/default-config.json
cp start.sh my-agent/bin/start.sh
cp main.py my-agent/main.py
chmod +x my-agent/bin/start.sh

./target/release/fluxbee-publish ./my-agent --dry-run | grep '^Dry-run: completed validation'
./target/release/fluxbee-publish ./my-agent --deploy motherbee

curl -sf "$BASE/hives/motherbee/versions" |
    jq -e '.payload.hive.runtimes.runtimes["ai.walk"].readiness["0.1.0"]
        | .runtime_present and .start_sh_executable and .base_runtime_ready'

curl -sf -X POST "$BASE/hives/motherbee/nodes" -H 'Content-Type: application/json' -d '{
  "node_name": "AI.walk.one", "runtime": "ai.walk", "runtime_version": "current",
  "tenant_id": "'"$TENANT_ID"'", "config": {"model": "large"}}' | jq -e '.status == "ok"'

for _ in $(seq 100); do
    STATE=$(curl -sf "$BASE/hives/motherbee/nodes/AI.walk.one@motherbee/status" |
        jq -r .payload.node_status.lifecycle_state)
    [ "$STATE" = RUNNING ] && break
    sleep 0.2
done
echo "state=$STATE"

curl -sf "$BASE/hives/motherbee/nodes/AI.walk.one@motherbee/config" |
    jq -c '[.payload.config.model, .payload.config.temperature]'
curl -sf -X PUT "$BASE/hives/motherbee/nodes/AI.walk.one@motherbee/config" -d '{"temperature": 0.1}' |
    jq -e '.payload.notify_status == "sent" and .payload.config_version == 2'
curl -sf -X DELETE "$BASE/hives/motherbee/nodes/AI.walk.one@motherbee" -d '{"purge_instance": true}' |
    jq -e '.payload.instance_purged'
"""


def test_package_publish_spawn_status_config(hive_folder, tmp_path):
    publisher = tmp_path / "target" / "release" / "fluxbee-publish"
    publisher.parent.mkdir(parents=True)
    publisher.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m appliance publish "$@"\n')
    publisher.chmod(0o755)
    (tmp_path / "start.sh").write_text(NODE)
    (tmp_path / "main.py").write_text(HELD)
    with HiveHarness(hive_folder, planes="apart") as hive:
        # No FLUXBEE_ROOT: the publisher asks the box where it keeps its software.
        environment = {key: value for key, value in os.environ.items() if not key.startswith("FLUXBEE_")}
        environment |= {"BASE": hive.url, "TENANT_ID": TENANT, "PYTHONPATH": os.getcwd()}
        told = subprocess.run(
            ["bash", "-c", WALK], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=90
        )
    assert told.returncode == 0, told.stdout + told.stderr
    assert "state=RUNNING" in told.stdout
    assert '["large",0.7]' in told.stdout
    assert "sync_hint_status=ok update_status=ok update_error_code=" in told.stdout
