"""Jobs over HTTP: queue one, show one, list many."""

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec

from cytomask.admission import require_served
from cytomask.arrivals import JOB_ID, awaited_by
from cytomask.errors import ImageNotFound, InvalidRequest, NoSuchJob
from cytomask.evaluations import Evaluations
from cytomask.jobs import Jobs
from cytomask.leads import Standing
from cytomask.records import STATUSES, EvaluationRow, JobRow
from cytomask.requests import SegmentRequest, message_of
from cytomask.served_model import work_of
from cytomask.settings import Settings
from cytomask.stack_models import StackModels
from cytomask.storage import Storage
from cytomask.table import Row

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

LONGEST_GROUP = 256
ROWS_AT_ONCE = 100
ROWS_EXAMINED = 1000  # many rows may be filtered out
SIGNATURE_BYTES = 16
# An answer has 6 MB, and messages and the pages of stacks may be long.
INTERNAL = ("owner", "lease_until", "message", "series")


@dataclass(frozen=True)
class Search:
    """Which jobs to list: `names` maps `status`, `group` or both to a value. `cursor`: where to go on."""

    names: Mapping[str, str]
    cursor: str | None = None


def parse_search(fields: Mapping[str, str]) -> Search:
    """Read a query; raise InvalidRequest."""
    names = {name: value for name, value in fields.items() if name != "cursor"}
    if set(names) - {"status", "group"} or not names:
        raise InvalidRequest(
            f"jobs are listed by `status`, `group` or both, and from a `cursor` on (found {_found(fields)})"
        )
    if names.get("status", STATUSES[0]) not in STATUSES:
        raise InvalidRequest(f"`status`: it takes one of {', '.join(STATUSES)}")
    if not 0 < len(names.get("group", "-")) <= LONGEST_GROUP:
        raise InvalidRequest(f"`group`: it takes a label of 1 to {LONGEST_GROUP} characters")
    return Search(names, fields.get("cursor"))


def _found(fields: Mapping[str, str]) -> str:
    return ", ".join(sorted(fields))[:300] or "nothing"


class Desk:
    """Everything the routes need, made once per cold start."""

    def __init__(
        self,
        settings: Settings,
        models: StackModels,
        storage: Storage,
        jobs: Jobs,
        evaluations: Evaluations,
        sqs: "SQSClient",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._queue_url = settings.segment_queue_url
        self._served, self._outputs = settings.allowed_buckets, settings.output_bucket
        self._cursors = Cursors(settings.jobs_table.encode())
        self._models = models
        self._storage = storage
        self._jobs = jobs
        self._evaluations = evaluations
        self._sqs = sqs
        self._clock = clock

    def queue(self, request: SegmentRequest) -> dict[str, Any]:
        """Queue a job and return its state; a known job may be further than QUEUED.

        The row comes first. Every repeat sends the message again: it may bring a new ground truth or group,
        and it restores outputs that are gone.

        Raises:
            ForeignBucket: the stack does not serve a bucket that is named.
            ImageNotFound: the object does not exist.
        """
        require_served(request, served=self._served, outputs=self._outputs)
        found = self._storage.find(request.image)
        if found is None:
            raise ImageNotFound(f"{request.image.uri} is not there; upload it first")
        work = work_of(replace(request, image=found), self._models.of(request))
        row = self._jobs.queue(work.job_id, image=request.image.uri, group=request.group, now=self._clock())
        message = message_of(request)
        self._sqs.send_message(
            QueueUrl=self._queue_url,
            MessageBody=message,
            MessageAttributes=awaited_by(work.job_id, message),
        )
        return {"job_id": work.job_id, "status": row.status, "image": request.image.uri}

    def job(self, job_id: str) -> dict[str, Any]:
        """Show a job's row with its `evaluations`; raise NoSuchJob."""
        found = self._evaluations.with_job(job_id) if JOB_ID.fullmatch(job_id) else None
        if found is None:
            raise NoSuchJob(
                f"there is no job {job_id[:100]}; an id has 32 hex digits, and POST /jobs answers with it"
            )
        job, evaluations = found
        return _shown(job) | {"evaluations": [_shown(row) for row in evaluations]}

    def jobs(self, search: Search) -> dict[str, Any]:
        """List the newest `jobs` that are searched for, with a `cursor` if there are more.

        Raises:
            InvalidRequest: the cursor is not one of ours, or belongs to another search.
        """
        start = self._cursors.read(search.cursor, search.names) if search.cursor is not None else None
        before = Standing(**start) if start else None
        found, end = self._jobs.listed(
            search.names, before=before, count=ROWS_AT_ONCE, examined=ROWS_EXAMINED
        )
        cursor = self._cursors.write(end._asdict(), search.names) if end else None
        return {"jobs": [_shown(row) for row in found], "cursor": cursor}


class Cursors:
    """Where a list continues, as text: signed, and valid for the same search only.

    The key protects no secret, because every caller sees the same rows. It tells our cursors from others.
    """

    def __init__(self, key: bytes, fields: Iterable[str] = Standing._fields) -> None:
        """Keep the key, and the `fields` that tell a place in the list."""
        self._key = key
        self._fields = frozenset(fields)

    def write(self, start: Row, names: Mapping[str, str]) -> str:
        """Write the cursor of a place in the table."""
        place = msgspec.json.encode(start)
        return base64.urlsafe_b64encode(self._signature(place, names) + place).decode()

    def read(self, cursor: str, names: Mapping[str, str]) -> Row:
        """Read the place of a cursor; raise InvalidRequest if it is not ours or belongs to another search."""
        try:
            signed = base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True)
        except (UnicodeEncodeError, binascii.Error):
            signed = b""
        signature, place = signed[:SIGNATURE_BYTES], signed[SIGNATURE_BYTES:]
        ours = hmac.compare_digest(signature, self._signature(place, names))
        start = _place_of(place, names, self._fields) if ours else None
        if (
            start is None or base64.urlsafe_b64encode(signed).decode() != cursor
        ):  # its last digit has spare bits
            raise InvalidRequest(
                "`cursor`: it is not one that this list gave; take it as it stands, with the same status and "
                "group"
            )
        return start

    def _signature(self, place: bytes, names: Mapping[str, str]) -> bytes:
        signed = msgspec.json.encode([sorted(names.items()), place.decode(errors="replace")])
        return hmac.digest(self._key, signed, hashlib.sha256)[:SIGNATURE_BYTES]


def _place_of(place: bytes, names: Mapping[str, str], fields: Set[str]) -> Row | None:
    """Read a place in a search's list; None if it cannot be one, because anybody with the key can sign."""
    try:
        start = msgspec.json.decode(place, type=dict[str, str])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    whole = start.keys() == fields and all(start.values())
    of_search = all(start.get(name, value) == value for name, value in names.items())
    return dict(start) if whole and of_search else None


def _shown(row: JobRow | EvaluationRow) -> Row:
    """Return a row without its internal fields and a stack's pages; an evaluation is known by its record."""
    hidden = {"record" if isinstance(row, JobRow) else "job_id", *INTERNAL}
    return {name: value for name, value in msgspec.to_builtins(row).items() if name not in hidden}
