"""The report of `cytomask finetune`: scores before and after, and pictures of the pages that changed most."""

from typing import TYPE_CHECKING, Any

from cytomask import __version__
from cytomask.cli.finetune import notes_of, rows_of
from cytomask.cli.html import render
from cytomask.cli.pictures import compared_uri, grey_page, png_uri

if TYPE_CHECKING:
    from cytomask.training.finetune import Outcome, PageScore

MOST = 3  # pages shown that gained, and pages that lost
LONGEST_SIDE = 560  # pixels


def render_report(outcome: "Outcome", measure: str) -> bytes:
    """Render the page in UTF-8; it needs no other file."""
    ordered = sorted(outcome.pages, key=lambda each: each.after - each.before, reverse=True)
    gained = [each for each in ordered[:MOST] if each.after >= each.before]
    lost = [each for each in reversed(ordered[-MOST:]) if each.after < each.before]
    return render(
        "finetune.html",
        title=f"{outcome.manifest.name}: fine-tuned from {outcome.manifest.lineage[-1].name}",
        version=__version__,
        measure=measure,
        rows=rows_of(outcome.pages),
        notes=notes_of(outcome, measure),
        sections=[
            {"title": title, "figures": [_figure(outcome, each) for each in some]}
            for title, some in (("Gained most", gained), ("Lost most", lost))
            if some
        ],
        sha256=outcome.manifest.sha256,
        data=outcome.manifest.training_data,
    )


def _figure(outcome: "Outcome", score: "PageScore") -> dict[str, Any]:
    page, mode = score.page, outcome.manifest.mode
    before = outcome.before.predict(page.pixels, mode).mask
    after = outcome.after.predict(page.pixels, mode).mask
    return {
        "name": page.name,
        "used": "held out" if score.held_out else "learned from",
        "before": f"{score.before:.3f}",
        "after": f"{score.after:.3f}",
        "pictures": {
            "image": png_uri(grey_page(page.pixels, LONGEST_SIDE)),
            "before": compared_uri(before, page.cells, LONGEST_SIDE),
            "after": compared_uri(after, page.cells, LONGEST_SIDE),
        },
    }
