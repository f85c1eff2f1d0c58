"""The public test kit: in-memory links, fake clocks and disks, whole hives in a directory."""
