"""Doors to the appliance for HTTP and WebSocket clients.

``serve`` opens one (admin 8080, world 3000, metrics): bind, Host and Origin check, token, limits,
deadlines, errors as JSON, and a stop that no client can delay. The applications behind the doors live in
their own modules.
"""

from appliance.http.config import DoorConfig, Listen, is_loopback, parse_listen
from appliance.http.counters import DoorStatistics
from appliance.http.door import Door, serve
from appliance.http.errors import (
    Fault,
    PayloadTooLarge,
    envelope_shape,
    not_found,
    plain_shape,
    world_shape,
)
from appliance.http.gate import Gate, extend_deadline
from appliance.http.health import Health, HealthSource, health_response, health_routes
from appliance.http.pages import PAGE_PREFIX, Page, wants_html
from appliance.http.routing import json_router

__all__ = [
    "PAGE_PREFIX",
    "Door",
    "DoorConfig",
    "DoorStatistics",
    "Fault",
    "Gate",
    "Health",
    "HealthSource",
    "Listen",
    "Page",
    "PayloadTooLarge",
    "envelope_shape",
    "extend_deadline",
    "health_response",
    "health_routes",
    "is_loopback",
    "json_router",
    "not_found",
    "parse_listen",
    "plain_shape",
    "serve",
    "wants_html",
    "world_shape",
]
