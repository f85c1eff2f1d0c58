"""Between hives: keys, transport, join and discovery, topology, replication."""
