"""Flags, from a poll or a request to a value."""
