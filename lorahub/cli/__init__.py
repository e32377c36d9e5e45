"""The commands: one module for each group. A command imports what it uses when it runs."""
