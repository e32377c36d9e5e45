"""A base and what is attached to it."""
