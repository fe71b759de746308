"""Check the result of a storm: each image has one final status, and its mask equals the quiet run's."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from cytomask.addresses import parse_uri

Row = Mapping[str, Any]

MASK, RESULT = "mask.png", "result.json"


def discrepancies(
    rows: Iterable[Row],
    outputs: Mapping[str, bytes],
    masks: Mapping[str, bytes],
    final: Iterable[str],
    attached: Collection[str] = (),
) -> list[str]:
    """List each discrepancy in a line.

    Args:
        rows: the jobs' rows.
        outputs: all objects of the output bucket, by key.
        masks: masks from a run without faults, by the name of each image: its key, or `<bucket>/<key>`.
        final: the statuses that a job may end with.
        attached: buckets whose images are named `<bucket>/<key>`.
    """
    jobs: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        image = parse_uri(row["image"], "image")
        jobs[f"{image.bucket}/{image.key}" if image.bucket in attached else image.key].append(row)
    found = [f"{key}: nobody uploaded it" for key in sorted(jobs.keys() - masks.keys())]
    for key, mask in masks.items():
        found += [f"{key}: {what}" for what in _of_image(key, jobs[key], outputs, mask, tuple(final))]
    belonging = {f"{key}.{kind}" for key in masks for kind in (MASK, RESULT)}
    return found + [f"{key}: belongs to no image" for key in sorted(outputs.keys() - belonging)]


def _of_image(
    key: str, jobs: list[Row], outputs: Mapping[str, bytes], mask: bytes, final: tuple[str, ...]
) -> Iterator[str]:
    if len(jobs) != 1:
        uploads = ", ".join(str(row.get("uploaded_at")) for row in jobs)
        yield f"it has {len(jobs)} jobs" + (f", of uploads at {uploads}" if jobs else "")
        return
    (row,) = jobs
    if row["status"] not in final:
        yield f"it is {row['status']}"
    if row.keys() & {"owner", "lease_until"}:
        yield "its job is still held"
    if row["status"] == "FAILED" and not (row.get("message") and row.get("error")):
        yield "it failed without a message or a reason"
    if row["status"] == "SUCCEEDED":
        if not row["mask"].endswith(f"/{key}.{MASK}"):
            yield f"its row names the mask {row['mask']}"
        if outputs.get(f"{key}.{MASK}") != mask:
            yield "its mask is not the quiet run's"
        result = outputs.get(f"{key}.{RESULT}")
        if result is None or msgspec.json.decode(result)["job_id"] != row["job_id"]:
            yield "its result is not its job's"
