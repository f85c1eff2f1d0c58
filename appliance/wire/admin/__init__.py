"""What the admin door and SY.admin share: calls, outcomes, the action catalogue, error codes. Pure data."""
