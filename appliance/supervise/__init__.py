"""Managed nodes and the software they run: decides what shall live; the keeper makes it so."""
