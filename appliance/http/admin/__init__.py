"""The admin door's application: paths, bodies, envelopes, the API document, metrics and streams."""

from .app import AdminApp, AdminParts

__all__ = ["AdminApp", "AdminParts"]
