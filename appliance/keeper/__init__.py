"""The keeper: the parent process that starts and supervises the planes."""
