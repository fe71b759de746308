"""Count an image's pages on its plate when it ends, and announce a complete plate."""

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

import msgspec

from cytomask.plate_places import places_of, times_of
from cytomask.plate_rows import Plates, PlateSummary
from cytomask.table import timestamp

Publish = Callable[[str, str], None]  # a subject and a message


class PlateCounts:
    """Counts pages and announces complete plates, for the functions that end jobs."""

    def __init__(self, plates: Plates, publish: Publish | None, clock: Callable[[], float]) -> None:
        """Keep the table and the topic; `publish` is None if the stack has no topic."""
        self._plates = plates
        self._publish = publish
        self._clock = clock

    def count(
        self,
        placed: Mapping[str, Any],
        *,
        pages: int,
        times: Collection[str] = (),
        masked: bool,
        cost_usd: float,
        expected_pages: int | None = None,
    ) -> PlateSummary:
        """Count an image whose job is about to end; repeats do not count twice.

        It must come before the job's row is finished: if the function dies in between, the job is done again
        and still counts once.

        Args:
            placed: attributes of the job's row, from `plate_rows.columns_of`.
            pages: number of pages of the image.
            times: the scans of a stack's pages, as `time_of` writes them; by default the image's own.
            masked: whether they have masks; otherwise they were rejected or failed.
            cost_usd: estimated cost of the job.
            expected_pages: pages of the whole plate, if the request gives their number.
        """
        now = timestamp(self._clock())
        if expected_pages is not None:
            self._plates.expect(placed["plate"], expected_pages, now=now)
        summary = self._plates.note(
            placed["plate"],
            placed["well"],
            places=places_of(placed, range(max(pages, 1))),
            times=times or times_of(placed),
            masked=masked,
            cost_usd=cost_usd,
            now=now,
        )
        self.announce_if_complete(summary)
        return summary

    def leave(
        self,
        job_id: str,
        placed: Mapping[str, Any],
        *,
        pages: int,
        times: Collection[str] = (),
        cost_usd: float,
    ) -> None:
        """Take back the counts of an image that moves elsewhere; see `Plates.leave`.

        A plate that was announced stays announced.
        """
        now = timestamp(self._clock())
        self._plates.leave(
            job_id, placed, pages=pages, times=times or times_of(placed), cost_usd=cost_usd, now=now
        )

    def expect(self, plate: str, pages: int) -> PlateSummary:
        """Store how many pages a plate will have, and announce it if they have ended already."""
        summary = self._plates.expect(plate, pages, now=timestamp(self._clock()))
        self.announce_if_complete(summary)
        return summary

    def announce_if_complete(self, summary: PlateSummary) -> bool:
        """Announce a complete plate once; return whether this call did.

        The caller that sets `completed_at` announces the plate. If publishing fails, it removes the mark and
        raises, so that the message's next delivery tries again.
        """
        if not summary.complete or summary.completed_at is not None:
            return False
        now = timestamp(self._clock())
        if not self._plates.claim_completion(summary.plate, now=now):
            return False
        if self._publish is not None:
            try:
                self._publish(f"plate complete: {summary.plate}"[:100], completion_message(summary, now))
            except Exception:  # the next page then tries to publish again
                self._plates.give_completion_back(summary.plate)
                raise
        return True


def completion_message(summary: PlateSummary, now: str) -> str:
    """Write the event `plate_complete` as JSON in ASCII."""
    told = msgspec.structs.replace(summary, completed_at=now)
    return json.dumps({"event": "plate_complete"} | told.shown())


def publisher(topic: str, make_client: Callable[[], Any]) -> Publish | None:
    """Return a function that publishes to a topic; its client is made for the first complete plate."""
    if not topic:
        return None

    def publish(subject: str, message: str) -> None:
        # SNS accepts only printable ASCII in subjects.
        ascii_subject = subject.encode("ascii", "replace").decode()
        make_client().publish(TopicArn=topic, Subject=ascii_subject, Message=message)

    return publish
