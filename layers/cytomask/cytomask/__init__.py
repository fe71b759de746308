"""Masks of living cells from microscope images."""

__version__ = "0.2.0"
