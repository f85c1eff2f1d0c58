#!/bin/sh
# The orchestrator starts this; FLUXBEE_BIN names the program that started it.
exec "${FLUXBEE_BIN:-fluxbee}" node run "$(dirname "$0")/../main.py" "$@"
