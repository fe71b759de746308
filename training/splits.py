"""Which pages are held out when weights are fine-tuned on a few of them."""

from collections.abc import Callable, Hashable, Sequence

from cytomask.truths.pairs import Page

FEWEST = 5  # pages; with fewer, all are needed for learning
SHARE = 0.2  # of the pages that is held out
FEWEST_GROUPS = 3
FEWEST_NEW_GROUPS = 2  # one to learn from, and one to hold out

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


def choose_held_out(pages: Sequence[Page], scores: Sequence[float], learned: Sequence[bool]) -> list[int]:
    """Choose the pages that are not learned from, and that choose and score the weights.

    Whole groups are held out, by the coarsest of plate, well, field and file of which there are at least
    three, two of them new to the start weights. They are taken evenly from the poorest to the best, so that
    they represent all. At most half of the new groups are held out, because the others must teach.

    Args:
        pages: all of them.
        scores: of the start weights on each page; anything that orders the pages from hard to easy.
        learned: whether the start weights have learned from a page. Its score says nothing about other
            pages, so its group is not held out.

    Returns:
        The places of the held-out pages; empty if there are fewer than five pages, or too few new groups.
    """
    if len(pages) < FEWEST:
        return []
    groups, new = _groups(pages, learned)
    wanted = int(SHARE * len(pages))
    ordered = sorted(new, key=lambda group: sum(scores[place] for place in group) / len(group))
    count = min(max(round(wanted * len(groups) / len(pages)), 1), len(new) // 2)
    taken = [ordered[int((place + 0.5) * len(ordered) / count)] for place in range(count)]
    held_out = sorted(place for group in taken for place in group)
    if not any(page.cells.any() for place, page in enumerate(pages) if place not in held_out):
        return []  # all cells would be held out
    return held_out


def _groups(pages: Sequence[Page], learned: Sequence[bool]) -> tuple[list[list[int]], list[list[int]]]:
    """Return the places of the pages of each group, and the groups without a learned page.

    The groups are those of the coarsest level that has enough groups and enough without a learned page. If no
    level has, each page is a group.
    """
    groups: dict[Hashable, list[int]] = {}
    new: list[list[int]] = []
    for level in LEVELS:
        groups = {}
        for place, page in enumerate(pages):
            groups.setdefault(level(page), []).append(place)
        new = [group for group in groups.values() if not any(learned[place] for place in group)]
        if len(groups) >= FEWEST_GROUPS and len(new) >= FEWEST_NEW_GROUPS:
            break
    return list(groups.values()), new
