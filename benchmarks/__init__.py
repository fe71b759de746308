"""Measurements of the serving path against the reference path and the machine; nothing here is served."""
