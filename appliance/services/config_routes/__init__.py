"""SY.config.routes: static routes and VPN rules of the hive (``spec/routing-and-regions.md §4``)."""

from .book import RouteBook, RouteLimits
from .service import RouteService

__all__ = ["RouteBook", "RouteLimits", "RouteService"]
