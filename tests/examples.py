"""The number of examples of a property test."""

from hypothesis import settings

FULL = 100  # examples of a property under the full profile


def examples(number: int) -> int:
    """Scale a property's own number of examples to the profile that runs: all of them, or a share."""
    return max(1, number * settings().max_examples // FULL)
