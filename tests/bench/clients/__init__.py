"""Client programs of the benchmarks: plain sockets, no SDK, standard library only.

Each runs as its own process and does one thing at full speed; ``fleet`` starts, commands and reaps them.
"""
