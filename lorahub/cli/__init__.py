"""The commands: one file a group; each imports its room when it runs."""
