"""What travels: frames, envelope, names, ids, errors, and the seams between rooms. Sans-IO throughout."""
