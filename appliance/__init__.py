"""Fluxbee Edge: journals are truth, regions are views, messages move between them."""

__all__ = ["__version__"]

__version__ = "0.1.0"
