"""The SY.* services: thin adapters from messages to the rooms below."""
