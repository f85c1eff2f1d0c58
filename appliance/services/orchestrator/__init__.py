"""SY.orchestrator: nodes, runtimes and hives by message. The rules are in :mod:`appliance.supervise`."""
