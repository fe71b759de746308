"""The report as one HTML file that needs nothing else: the measures, and images with their masks.

An image is read in exactly the version that was segmented, a ground truth in the one that was scored;
where either is gone, a sentence stands in the picture's place.
"""

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import msgspec
import numpy as np
from botocore.exceptions import ClientError
from numpy.typing import NDArray
from PIL import Image

from cytomask import images
from cytomask.cli.summary import (
    EVALUATION,
    Block,
    Job,
    Row,
    compare,
    kind_of,
    models_of,
    name_of,
    warn_of_different_images,
    worst_median_best,
)
from cytomask.errors import CytomaskError, ImageReplaced, MaskReplaced
from cytomask.metrics import Mask
from cytomask.model.preprocess import resize
from cytomask.requests import S3Object, parse_uri
from cytomask.storage import Storage
from cytomask.truths.masks import read_ground_truth

MOST_IMAGES = 3  # of the worst, of the median and of the best, for each model
MOST_FAILURES = 100
LONGEST_SIDE = 704  # pixels, which LIVECell's images have: these are shown as they are

# Grey, and the orange and blue of Okabe and Ito, which every kind of colour blindness tells apart.
AGREED, FALSE_POSITIVE, FALSE_NEGATIVE = (200, 200, 200), (230, 159, 0), (0, 114, 178)

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; margin: 1em 0 }
th, td { padding: .2em .8em; text-align: left; vertical-align: top; border-bottom: 1px solid #ddd }
td.number { text-align: right; font-variant-numeric: tabular-nums }
tbody th[colspan] { background: #eee }
figure { margin: 1em 0 2em }
.pictures { display: grid; grid-template-columns: repeat(3, 1fr); gap: 8px }
.pictures img { width: 100%; background: #000 }
code { overflow-wrap: anywhere; white-space: pre-wrap; unicode-bidi: isolate }
.key { display: inline-block; width: 1em; height: 1em; vertical-align: -.1em }
"""


@dataclass(frozen=True)
class Compared:
    """One page of a job.

    Attributes:
        pixels: (H, W), any real dtype.
        mask, cells: (H, W) bool, what was found and what is true.
        notes: which page it is where there are several, and whether it is shown smaller than it is.
    """

    pixels: NDArray[np.generic]
    mask: Mask
    cells: Mask
    notes: list[str]


def render_page(storage: Storage, title: str, jobs: Sequence[Job]) -> bytes:
    """The whole file, in UTF-8; a picture that cannot be drawn is a sentence."""
    models = models_of(jobs)
    scored = [model for model in models if any(job.score for job in jobs if job.model == model)]
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        # What a key might smuggle in is not run, and nothing is fetched.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        f"style-src 'unsafe-inline'\"><title>{escape(title)}</title><style>{STYLE}</style></head><body>"
        f"<h1>{escape(title)}</h1>",
        _paragraph(warn_of_different_images(jobs) or ""),
        _measures(compare(jobs), models),
        _paragraph(
            "Mean: over scored masks. Pooled: of the pixels of all scored masks together. Of each mask the "
            "score against its newest ground truth counts. Outlines and confluences have means only."
        ),
        _legend() if scored else _paragraph("No mask has a score, so there is nothing to show."),
    ]
    for model in scored:
        parts.append(f"<h2>Model <code>{escape(name_of(model))}</code></h2>")
        own = [job for job in jobs if job.model == model]
        for which, chosen in worst_median_best(own, MOST_IMAGES).items():
            parts += [_figure(storage, which, job) for job in chosen]
    parts += [_failures([job for job in jobs if job.failure]), "</body></html>\n"]
    return "\n".join(parts).encode()


def _measures(blocks: Iterable[Block], models: Sequence[str]) -> str:
    heads = "".join(
        f'<th scope="col" title="{escape(model)}"><code>{escape(name_of(model))}</code></th>'
        for model in models
    )
    bodies = []
    for block in blocks:
        rows = [f'<tr><th scope="rowgroup" colspan="{len(models) + 1}">{escape(block.title)}</th></tr>']
        for name, values in block.lines:
            cells = "".join(f'<td class="number">{escape(value)}</td>' for value in values)
            rows.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
        bodies.append(f"<tbody>{''.join(rows)}</tbody>")
    return f'<table><thead><tr><th scope="col">model</th>{heads}</tr></thead>{"".join(bodies)}</table>'


def _legend() -> str:
    colours = {
        "cell in both": AGREED,
        "false positive, in the mask only": FALSE_POSITIVE,
        "false negative, in the ground truth only": FALSE_NEGATIVE,
    }
    keys = "".join(
        f'<span class="key" style="background: rgb{colour}"></span> {what}; '
        for what, colour in colours.items()
    )
    return (
        "<h2>The worst, the median and the best by IoU</h2>"
        f"<p>Image, mask, and how the mask compares: {keys}black is neither.</p>"
    )


def _figure(storage: Storage, which: str, job: Job) -> str:
    """One job's pictures, with what is known of it."""
    score = f"IoU {float(job.score['iou']):.3f}, Dice {float(job.score['dice']):.3f}"
    image, job_id = escape(job.row["image"]), escape(job.row["job_id"])
    notes = [f"{which}: <code>{image}</code>", score, f"job <code>{job_id}</code>"]
    try:
        compared = read_compared(storage, job)
        notes += map(escape, compared.notes)
        pictures = "".join(
            f'<img alt="{name}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
            for name, png in draw(compared).items()
        )
    except CytomaskError as error:
        notes.append(f"not drawn: {escape(str(error))}")
        pictures = ""
    except ClientError as error:
        reason = error.response.get("Error", {}).get("Message", str(error))
        notes.append(f"not drawn: {error.operation_name} was refused: {escape(reason)}")
        pictures = ""
    return (
        f'<figure><figcaption>{"; ".join(notes)}</figcaption><div class="pictures">{pictures}</div></figure>'
    )


def read_compared(storage: Storage, job: Job) -> Compared:
    """The first page of a job, its mask and its ground truth, as they were when the mask was scored.

    Raises:
        CytomaskError: one of them is gone, was replaced, or is too large or damaged.
        ClientError: what S3 refuses to say.
    """
    result = _result(storage, job.row)
    image, page = msgspec.convert(result["image"], S3Object), result["pages"][0]
    mask = replace(parse_uri(page["mask"], "mask"), etag=page["mask_etag"])
    truth = _truth(storage, job.score)
    sizes = [(each["height"], each["width"]) for each in result["pages"]]
    cells = read_ground_truth(storage.read_image(truth, images.LIMITS), truth.uri, sizes, images.LIMITS)
    notes = []
    if len(sizes) > 1:
        notes.append(f"shown is page {page['page']}, the first of the {len(sizes)} that are scored together")
    if max(sizes[0]) > LONGEST_SIDE:
        notes.append(f"scaled down from {page['width']} x {page['height']} pixels")
    return Compared(
        _pixels(storage, image, page["page"], result["parameters"]["channel"]),
        _pixels(storage, mask, 0, None) > 0,
        next(cells),
        notes,
    )


def _result(storage: Storage, row: Row) -> dict[str, Any]:
    """What the job wrote of its pages; raises MaskReplaced where it is another job's now."""
    place = parse_uri(row["result"], "result")
    stored = storage.read_output(place.bucket, place.key)
    result: dict[str, Any] = msgspec.json.decode(stored) if stored else {}
    if result.get("job_id") != row["job_id"]:
        raise MaskReplaced(f"{place.uri} was deleted, or a newer upload of the image replaced it")
    return result


def _truth(storage: Storage, evaluation: Row) -> S3Object:
    """The ground truth that was scored against; of a COCO file the mask that was drawn.

    Raises:
        ImageReplaced: it is no longer there in this version.
    """
    place = parse_uri(evaluation.get("ground_truth_mask") or evaluation["ground_truth"], "ground_truth")
    version = evaluation["record"].removeprefix(EVALUATION)
    for asked in (place, replace(place, version_id=version)):
        found = storage.find(asked)
        if found and ("ground_truth_mask" in evaluation or found.version == version):
            return found
    raise ImageReplaced(f"{place.uri} is no longer there in the version that was scored, {version}")


def _pixels(storage: Storage, place: S3Object, index: int, channel: int | None) -> NDArray[Any]:
    """One page, (H, W) of any real dtype; raises as `Storage.read_image` and `images.read_pages` do."""
    with images.open_image(storage.read_image(place, images.LIMITS), place.uri) as opened:
        return next(images.read_pages(opened, [index], channel)).pixels


def draw(compared: Compared) -> dict[str, bytes]:
    """The image, the mask and the disagreement as PNGs, scaled down to `LONGEST_SIDE`, by their names."""
    height, width = compared.pixels.shape
    shrink = min(LONGEST_SIDE / max(height, width), 1)
    shape = max(round(height * shrink), 1), max(round(width * shrink), 1)
    page = resize(compared.pixels.astype(np.float32), *shape)
    low, high = (float(grey) for grey in np.percentile(page, (0.5, 99.5)))
    gain = 255 / (high - low) if high > low else 0.0

    kinds = (  # each of them scaled by itself, so that a thin line fades and does not break
        (compared.mask & compared.cells, AGREED),
        (compared.mask & ~compared.cells, FALSE_POSITIVE),
        (~compared.mask & compared.cells, FALSE_NEGATIVE),
    )
    shares = [resize(pixels.astype(np.float32), *shape)[..., None] * colour for pixels, colour in kinds]
    return {
        "image": _png(np.clip((page - low) * gain, 0, 255)),
        "mask": _png(resize(compared.mask.astype(np.float32), *shape) * 255),
        "disagreement": _png(np.sum(shares, axis=0)),  # H, W, 3
    }


def _png(values: NDArray[Any]) -> bytes:
    """An 8-bit PNG of (H, W) or (H, W, 3) values in 0..255."""
    stream = io.BytesIO()
    Image.fromarray(np.rint(values).astype(np.uint8)).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _failures(jobs: Sequence[Job]) -> str:
    """A row for each of the newest failures."""
    if not jobs:
        return ""
    rows = []
    for job in jobs[:MOST_FAILURES]:
        what = job.row.get("image") or f"message {job.row.get('message', '')}"
        cells = (what, kind_of(job.failure), job.failure.get("error", ""), job.row["job_id"])
        rows.append("".join(f"<td><code>{escape(cell)}</code></td>" for cell in cells))
    heads = "".join(f'<th scope="col">{head}</th>' for head in ("image", "failure", "why", "job"))
    more = len(jobs) - len(rows)
    return (
        f"<h2>Failures</h2><table><thead><tr>{heads}</tr></thead>"
        f"<tbody>{''.join(f'<tr>{row}</tr>' for row in rows)}</tbody></table>"
        + _paragraph(f"{more} older ones are not shown; the CSV has them all." if more else "")
    )


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>" if text else ""
