"""Measure the serving path against the reference and the machine's limits. Nothing here is served."""
