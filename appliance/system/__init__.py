"""Every OS call worth faking: clock, disks, peer credentials, process control, notifications."""
