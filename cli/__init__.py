"""The `cytomask` command."""
