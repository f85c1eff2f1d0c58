"""The router: a sans-IO engine and its thin Unix-socket shell."""
