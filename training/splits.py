"""Which pages are held out when weights are fine-tuned on a few of them."""

from collections.abc import Callable, Hashable, Sequence

from cytomask.truths.pairs import Page

FEWEST = 5  # pages; with fewer, all are needed for learning
SHARE = 0.2  # of the pages that is held out
FEWEST_GROUPS = 3

# From the coarsest to the finest. Pages of one plate, well or field look alike, so they stay together.
LEVELS: tuple[Callable[[Page], Hashable], ...] = (
    lambda page: page.acquisition.plate or page.file,
    lambda page: (page.acquisition.plate, page.acquisition.well) if page.acquisition.well else page.file,
    lambda page: (
        (page.acquisition.plate, page.acquisition.well, page.acquisition.site)
        if page.acquisition.site
        else page.file
    ),
    lambda page: page.file,
    lambda page: page.name,
)


def choose_held_out(pages: Sequence[Page], scores: Sequence[float]) -> list[int]:
    """Choose the pages that are not learned from, and that choose and score the weights.

    Whole groups are held out, by the coarsest of plate, well, field and file of which there are at least
    three. They are taken evenly from the poorest to the best, so that they represent all.

    Args:
        pages: all of them.
        scores: of the start weights on each page; anything that orders the pages from hard to easy.

    Returns:
        The places of the held-out pages; empty if there are fewer than five pages.
    """
    if len(pages) < FEWEST:
        return []
    groups = _groups(pages)
    wanted = int(SHARE * len(pages))
    ordered = sorted(groups, key=lambda group: sum(scores[place] for place in group) / len(group))
    count = max(min(round(wanted * len(groups) / len(pages)), len(groups) - 1), 1)
    taken = [ordered[int((place + 0.5) * len(ordered) / count)] for place in range(count)]
    held_out = sorted(place for group in taken for place in group)
    if not any(page.cells.any() for place, page in enumerate(pages) if place not in held_out):
        return []  # all cells would be held out
    return held_out


def _groups(pages: Sequence[Page]) -> list[list[int]]:
    """Return the places of the pages of each group, at the coarsest level with enough groups."""
    groups: dict[Hashable, list[int]] = {}
    for level in LEVELS:
        groups = {}
        for place, page in enumerate(pages):
            groups.setdefault(level(page), []).append(place)
        if len(groups) >= FEWEST_GROUPS:
            break
    return list(groups.values())
