"""Simulate uploads that arrive while a backfill fills the queue: `python -m benchmarks.fairness`.

No emulator has SQS's fair queues, so this simulation follows their documented rule
(docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-fair-queues-detailed.html). Messages
of one MessageGroupId are one tenant; a message without one is a tenant of its own. A tenant is noisy with
over 10 % of the consumers' recent time, or with over 10 % of the messages in flight and at least 30 of them.
Messages of quiet tenants are delivered before those of a noisy one.
"""

import argparse
import heapq
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NOISY_SHARE = 0.10
NOISY_IN_FLIGHT = 30
RECENT_SECONDS = 60.0  # the documentation says "recent" and gives no figure


@dataclass(frozen=True)
class Load:
    """The queue's messages and its consumers.

    Attributes:
        backlog: messages of the backfill, all queued at the start.
        uploads: images that arrive one after another, each at a random moment of its `interval` seconds.
            Whole seconds would beat in time with the consumers, and always meet a free one.
        consumers: messages processed at a time: concurrent functions, each with one message of its batch.
        seconds: processing time of a message.
    """

    backlog: int
    uploads: int
    interval: float
    consumers: int
    seconds: float


def waiting_times(load: Load, *, grouped: bool) -> NDArray[np.float64]:
    """Return how long each upload waited for its delivery, in seconds: (uploads,) float64.

    Args:
        load: the load to simulate.
        grouped: whether the backfill's messages carry a MessageGroupId. Without one, each message is a
            tenant of its own, none is noisy, and the queue delivers roughly in order of arrival.
    """
    waits = np.zeros(load.uploads)
    rng = np.random.default_rng(0)
    arrivals = (np.arange(load.uploads) + rng.random(load.uploads)) * load.interval
    free = [
        (0.0, False)
    ] * load.consumers  # when each consumer is free, and whether it works for the backfill
    heapq.heapify(free)
    backlog, waiting, arrived = load.backlog, deque[int](), 0
    recent = deque[tuple[float, bool]]()  # when recent messages ended, and whether the backfill sent them
    in_flight = backfill_recent = 0
    while arrived < load.uploads or waiting:
        now, of_backfill = heapq.heappop(free)
        in_flight -= of_backfill
        if not backlog and not waiting:
            now = max(now, arrivals[arrived])
        while arrived < load.uploads and arrivals[arrived] <= now:
            waiting.append(arrived)
            arrived += 1
        while recent and recent[0][0] < now - RECENT_SECONDS:
            backfill_recent -= recent.popleft()[1]
        noisy = grouped and is_noisy(backfill_recent, len(recent), in_flight, load.consumers)
        take_upload = bool(waiting) and (noisy or not backlog)
        if take_upload:
            number = waiting.popleft()
            waits[number] = now - arrivals[number]
        elif backlog:
            backlog -= 1
            in_flight += 1
        end = now + load.seconds
        recent.append((end, not take_upload))
        backfill_recent += not take_upload
        heapq.heappush(free, (end, not take_upload))
    return waits


def is_noisy(recent: int, all_recent: int, in_flight: int, all_in_flight: int) -> bool:
    """Tell whether a tenant is noisy, from its share of the recent work and of the messages in flight."""
    slow = all_recent > 0 and recent > NOISY_SHARE * all_recent
    broad = in_flight >= NOISY_IN_FLIGHT and in_flight > NOISY_SHARE * all_in_flight
    return slow or broad


def main() -> None:
    """Print the uploads' waiting times with and without the group."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--backlog", type=int, default=1_000_000, help="messages of the backfill")
    parser.add_argument("--uploads", type=int, default=3600, help="images that arrive, one a second")
    parser.add_argument("--consumers", type=int, default=6, help="functions that run at a time")
    parser.add_argument("--seconds", type=float, default=0.11, help="seconds that an image takes")
    given = parser.parse_args()
    load = Load(given.backlog, given.uploads, 1.0, given.consumers, given.seconds)
    print(
        f"{load.backlog:,} messages, {load.consumers} at a time, {load.seconds} s each; one upload a second"
    )
    for grouped in (False, True):
        waits = waiting_times(load, grouped=grouped)
        middle, most = np.percentile(waits, 50), waits.max()
        print(f"{'with' if grouped else 'without'} a group: median {middle:,.2f} s, longest {most:,.2f} s")


if __name__ == "__main__":
    main()
