"""Measure the serving path against the reference and the machine's limits. The stack uses none of this."""
