"""The work of `cytomask demo`: send images in every way, wait, and show the results."""

import json
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cytomask import images
from cytomask.addresses import parse_uri
from cytomask.cli.console import complain, say, with_progress
from cytomask.cli.demo_page import Shown, ShownPage, write_page
from cytomask.cli.demo_plate import make_plate, show_plate
from cytomask.cli.download import local_path
from cytomask.cli.files import count_of, describe_passed_over, find_images, write_whole
from cytomask.cli.jobs import SHORT_ID, reason_of
from cytomask.cli.rows import Search, newest_score, read_result
from cytomask.cli.stack import Stack
from cytomask.cli.tables import flag_text, number, print_table
from cytomask.cli.upload import send
from cytomask.infra.emulator import EmulatedStack, emulated_stack
from cytomask.records import EvaluationRow, JobRow, Result
from cytomask.requests import Parameters
from cytomask.samples.fields import write_samples
from cytomask.served_model import read_served_models
from cytomask.storage import Storage

LONGEST_NAME = 60  # characters of an image's name, or of a message, in the table
STALL_SECONDS = 120  # give up if no job ends for this long
POLL_SECONDS = 0.3
ENDED = ("SUCCEEDED", "REJECTED", "FAILED")
HEADS = ("job", "image", "asked for", "status", "confluence", "IoU", "Dice", "ms", "flags")
TO_THE_RIGHT = ("confluence", "IoU", "Dice", "ms")


@dataclass(frozen=True)
class Upload:
    """An image on disk, the key it gets, and its ground truth if one is known."""

    path: Path
    key: str
    ground_truth: Path | None = None


@dataclass(frozen=True)
class Expected:
    """How many jobs must end in which way."""

    masks: int
    rejections: int = 0
    scores: int = 0


def demonstrate(
    paths: Sequence[Path], out: Path, folder: Path, then: Callable[[str], None] | None = None
) -> int:
    """Send the images, or generated samples if none are given, and show the results.

    Args:
        paths: the user's files and folders.
        out: folder for masks, overlays, the page and the log.
        folder: folder for temporary files.
        then: called with the stack's endpoint before the stack stops.

    Returns:
        0, or 1 if an image did not end as expected, 2 if no image was found.

    Raises:
        ChildFailed, StackFailed: the emulated stack did not start.
        OSError: `out` cannot be written.
    """
    own = _find(paths)
    if paths and not own:
        complain("no images were given, or the given folders contain none")
        return 2
    say("starting the emulated stack; nothing leaves this computer ...")
    with ThreadPoolExecutor(1) as pool:
        samples = None if paths else pool.submit(_make_samples, folder / "samples")  # while the stack starts
        plate = None if paths else pool.submit(make_plate, folder / "plate")
        with emulated_stack(folder / "stack") as emulated:
            stack = Stack.connect("cytomask", emulated.endpoint)
            try:
                if samples is None:
                    uploads, expected = own, _send(stack, own)
                else:
                    uploads = samples.result()
                    expected = _send_every_way(emulated, stack, uploads)
                code = _show(stack, uploads, expected, out)
                if plate is not None and not show_plate(stack, plate.result(), out):
                    code = 1
                if then is None:
                    say(f"correct   {again(paths)}   <- the same images on the page, to judge and correct")
                else:
                    then(emulated.endpoint)
                return code
            finally:
                out.mkdir(parents=True, exist_ok=True)
                if emulated.log.exists():
                    shutil.copyfile(emulated.log, out / "log.jsonl")


def again(paths: Sequence[Path]) -> str:
    """Write the command that segments the same images once more and opens the page, as it can be typed."""
    typed = Path(sys.argv[0])
    program = str(typed) if typed.name == "cytomask" else "cytomask"
    return shlex.join([program, "demo", "--web", *map(str, paths)])


def _make_samples(folder: Path) -> list[Upload]:
    return [Upload(sample.image, sample.key, sample.ground_truth) for sample in write_samples(folder)]


def _find(paths: Sequence[Path]) -> list[Upload]:
    found = find_images(paths)
    if found.passed_over:
        complain(describe_passed_over(found.passed_over))
    return [Upload(path, below.as_posix()) for path, below in found.images]


def _send(stack: Stack, uploads: Sequence[Upload]) -> Expected:
    """Upload the user's images and wait for the job of each one that was sent."""
    say(f"uploading {count_of(len(uploads), 'image')} to s3://{stack.input_bucket} ...")
    sent = 0
    for upload in uploads:
        outcome = send(stack, upload.path, stack.input_bucket, upload.key)
        if isinstance(outcome, str):
            complain(f"{upload.path}  not sent: {outcome}")
        else:
            sent += 1
    _wait(lambda: len(_ended(stack)), sent)
    return Expected(len(uploads))


def _send_every_way(emulated: EmulatedStack, stack: Stack, uploads: Sequence[Upload]) -> Expected:
    """Upload samples, send messages, one of them with a typing error, and call the function.

    Half of the ground truths arrive before their images and half after their masks.
    """
    first = f"s3://{stack.input_bucket}/{uploads[0].key}"
    messages = [
        {"image": first, "threshold": 0.35, "outputs": ["mask", "overlay"], "group": "low threshold"},
        {"image": first, "treshold": 0.35},
    ]
    say(f"sending {len(uploads)} uploads, {len(messages)} messages and 1 direct call ...")
    _upload_truths(stack, uploads[::2])
    for upload in uploads:
        stack.s3.upload_file(str(upload.path), stack.input_bucket, upload.key)
    for message in messages:
        stack.sqs.send_message(
            QueueUrl=stack.segment_queue, MessageBody=json.dumps(message, ensure_ascii=False)
        )
    emulated.client("lambda").invoke(
        FunctionName=emulated.outputs["SegmentFunctionName"],
        Payload=json.dumps({"image": first, "mode": "resize"}).encode(),
    )
    masks, rejections = len(uploads) + 2, 1
    _wait(lambda: len(_ended(stack)), masks + rejections)
    _upload_truths(stack, uploads[1::2])
    scores = sum(upload.ground_truth is not None for upload in uploads) + 2  # the first image has three masks
    _wait(lambda: len(_scores(stack, _ended(stack))), scores)
    return Expected(masks, rejections, scores)


def _upload_truths(stack: Stack, uploads: Iterable[Upload]) -> None:
    """Upload the known ground truths, each under its image's key with another suffix."""
    for upload in uploads:
        if upload.ground_truth:
            key = str(PurePosixPath(upload.key).with_suffix(upload.ground_truth.suffix))
            stack.s3.upload_file(str(upload.ground_truth), stack.ground_truth_bucket, key)


def _ended(stack: Stack) -> list[JobRow]:
    """List the jobs that have ended, the oldest first."""
    return [row for row in stack.rows.jobs(Search()) if row.status in ENDED][::-1]


def _scores(stack: Stack, rows: Sequence[JobRow]) -> dict[str, EvaluationRow]:
    """Return the scores of the jobs that have one, by job id."""
    masks = [row for row in rows if row.status == "SUCCEEDED"]
    found = zip(masks, stack.rows.evaluations(masks), strict=True)
    return {row.job_id: score for row, own in found if (score := newest_score(own))}


def _wait(count: Callable[[], int], wanted: int) -> None:
    """Wait until this many are done or progress stops; show the progress."""

    def steps() -> Iterator[int]:
        done, last = 0, time.monotonic()
        while done < wanted and time.monotonic() - last < STALL_SECONDS:
            now = count()
            if now > done:
                yield from range(done, min(now, wanted))
                done, last = now, time.monotonic()
            else:
                time.sleep(POLL_SECONDS)

    for _ in with_progress(steps(), wanted, "image"):
        pass


def _show(stack: Stack, uploads: Sequence[Upload], expected: Expected, out: Path) -> int:
    """Print the table, write masks, overlays and the page, and print where they are."""
    rows = _ended(stack)
    scores = _scores(stack, rows)
    shown = [_shown(stack, row, scores.get(row.job_id), uploads, out) for row in rows]
    page = write_page(out / "index.html", shown)
    say()
    print_table(HEADS, [_line(each) for each in shown], TO_THE_RIGHT)
    for each in shown:
        if each.reason:
            say()
            say(f"{each.row.job_id[:SHORT_ID]} was {each.row.status.lower()}: {each.reason}")
    say()
    if any(each.flags for each in shown):
        say("flags warn of a doubtful mask; docs/quality.md says what each means")
        say()
    say(f"masks     {out}/….mask.png")
    say(f"overlays  {out}/….overlay.png")
    say(f"log       {out / 'log.jsonl'}")
    say(f"page      {page.resolve().as_uri()}   <- open this in a browser")
    found = Expected(
        sum(row.status == "SUCCEEDED" for row in rows),
        sum(row.status == "REJECTED" for row in rows),
        len(scores),
    )
    if found == expected:
        return 0
    if expected.rejections:
        complain(
            f"expected {expected.masks} masks, {expected.rejections} rejections, {expected.scores} scores; "
            f"found {found.masks}, {found.rejections}, {found.scores}; {out / 'log.jsonl'} says more"
        )
    else:
        wanted = count_of(expected.masks, "image")
        complain(f"{found.masks} of {wanted} got a mask; the reasons are above and in {out / 'log.jsonl'}")
    return 1


def _shown(
    stack: Stack, row: JobRow, score: EvaluationRow | None, uploads: Sequence[Upload], out: Path
) -> Shown:
    """Fetch a job's outputs and draw its overlays."""
    name = row.image.split("/", 3)[3] if row.image else f"message {row.message or ''}"
    result = read_result(Storage(stack.s3), row.result)
    sources = {f"s3://{stack.input_bucket}/{upload.key}": upload.path for upload in uploads}
    pages = list(_store(stack, result, sources[row.image], out)) if result and row.image else []
    asked = _asked_for(result.parameters) if result and result.parameters else ""
    return Shown(row, name, asked, score, reason_of(row), pages)


def _asked_for(asked: Parameters) -> str:
    """List the parameters that affect the mask and differ from an upload's defaults."""
    plain = Parameters(read_served_models()[asked.mode].threshold)
    names = ("threshold", "mode", "pages", "channel")
    return ", ".join(
        f"{name} {getattr(asked, name)}" for name in names if getattr(asked, name) != getattr(plain, name)
    )


def _store(stack: Stack, result: Result, source: Path, out: Path) -> Iterator[ShownPage]:
    """Write each page's mask and overlay."""
    channel = result.parameters.channel if result.parameters else None
    for written in result.pages:
        place = parse_uri(written.mask or "", "mask")
        mask = local_path(out, place.key)
        body = Storage(stack.s3).read_output(place.bucket, place.key)
        write_whole(mask, body or b"")
        page = images.read_page(source, written.page, channel)
        overlay = mask.with_name(mask.name.replace(".mask.png", ".overlay.png"))
        write_whole(overlay, images.encode_overlay(page.pixels, images.read_page(mask).pixels > 0))
        flags = " ".join(flag_text(flag.name, flag.value) for flag in written.quality)
        yield ShownPage(source, written.page, channel, written.confluence, flags, mask, overlay)


def _line(shown: Shown) -> tuple[str, ...]:
    row, score = shown.row, shown.score
    return (
        row.job_id[:SHORT_ID],
        shown.name if len(shown.name) <= LONGEST_NAME else f"{shown.name[: LONGEST_NAME - 1]}…",
        shown.asked or "-",
        row.status,
        number(row.confluence),
        number(score.iou if score else None),
        number(score.dice if score else None),
        number(row.milliseconds, 0),
        shown.flags,
    )
