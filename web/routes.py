"""The routes of the page's server. Each is thin: it reads the request, calls one thing and answers."""

import re
from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from cytomask import images
from cytomask.plate_pages import Options
from cytomask.table import Table
from cytomask.web.account import Account
from cytomask.web.answers import Refusal, answer, read_body, read_json
from cytomask.web.cache import Cache, Opened
from cytomask.web.caller import Answer
from cytomask.web.catalogue import Catalogue, Entry, spending
from cytomask.web.downloads import Archive, Tickets, table_of
from cytomask.web.library import CLEANED, LAYERS, Library
from cytomask.web.plates import PlateShelf
from cytomask.web.raster import SHADES, TILE, Raster, halvings, shares_above
from cytomask.web.security import Session
from cytomask.web.truths import Painter, Painting, most_bytes, parse_tiles
from cytomask.web.uploads import Uploads

JOB_ID = re.compile(r"[0-9a-f]{32}")
MOST_SCORED_AT_ONCE = 200
MOST_IDS_BYTES = 8_000_000  # of the jobs in one download: 200,000
WHOLE_PIXELS = 4 * TILE * TILE
THUMBNAIL = 512  # pixels of the longer side, at most: the browser halves it, and the outline with it
BYTES = "application/octet-stream"


class Thumbnail(bytes):
    """A small PNG, as the cache takes it."""

    @property
    def nbytes(self) -> int:
        """Its length."""
        return len(self)


class Routes:
    """The routes over one stack."""

    def __init__(self, account: Account, session: Session) -> None:
        """Share one cache of decoded pages between all of them."""
        self._account = account
        self._session = session
        self._cache, self._small = Cache(), Cache(64 * 2**20)
        self._library = Library(account, self._cache)
        self._painter = Painter(account, self._library)
        self._catalogue = Catalogue(Table(account.dynamodb, account.table))
        self._tickets = Tickets()
        self._plates = PlateShelf(account)
        self._opened = Opened()
        self._archive = Archive(account, self._library)
        self.uploads = Uploads(account)

    def listed(self) -> list[Route]:
        """List every route. A GET changes nothing."""

        def get(path: str, endpoint: Callable[..., Any]) -> Route:
            return Route(f"/api/{path}", endpoint, methods=["GET"])

        def post(path: str, endpoint: Callable[..., Any]) -> Route:
            return Route(f"/api/{path}", endpoint, methods=["POST"])

        return [
            post("session", self.open_session),
            get("session", self.describe),
            get("jobs", self.jobs),
            post("jobs", self.queue),
            post("scores", self.scores),
            get("spending", self.spending),
            get("jobs/{job}", self.job),
            get("jobs/{job}/result", self.result),
            get("jobs/{job}/truth", self.truth),
            get("jobs/{job}/log", self.log),
            post("jobs/{job}/redrive", self.redrive),
            get("jobs/{job}/thumbnail", self.thumbnail),
            get("jobs/{job}/pages/{page:int}/{layer}", self.layer),
            get("jobs/{job}/pages/{page:int}/{layer}/{level:int}/{column:int}/{row:int}", self.tile),
            post("jobs/{job}/pages/{page:int}/truth", self.save_truth),
            post("uploads", self.begin_upload),
            post("uploads/complete", self.complete_upload),
            post("uploads/abort", self.abort_upload),
            post("uploads/through", self.upload_through),
            post("downloads", self.ask_download),
            get("downloads/{name}", self.download),
            get("plates", self.plates),
            get("plates/{plate:path}", self.plate),
        ]

    async def open_session(self, request: Request) -> Response:
        """Exchange the token of the address for the cookie."""
        token = (await read_json(request)).get("token")
        if not isinstance(token, str) or not await self._session.accepts_token(token):
            raise Refusal(
                HTTPStatus.UNAUTHORIZED,
                "WRONG_TOKEN",
                "the address is of an earlier session; open the one that `cytomask web` printed last",
            )
        opened = answer({"opened": True})
        opened.headers["Set-Cookie"] = self._session.cookie
        return opened

    def describe(self, _: Request) -> Response:
        """Describe the stack, its limits and the models' own thresholds."""
        return answer(
            {
                "stack": self._account.name,
                "region": self._account.region,
                "buckets": {purpose: name for name, purpose in self._account.buckets.items()},
                "thresholds": self._account.thresholds(),
                "largest_file": images.LIMITS.file_bytes,
            }
        )

    def jobs(self, request: Request) -> Response:
        """List the jobs that changed after `revision`; all of them if it is 0."""
        found, revision = self._catalogue.since(_number(request, "revision"))
        return answer({"jobs": found, "revision": revision})

    async def scores(self, request: Request) -> Response:
        """Look up the scores of the jobs named; a POST, because their ids do not fit into a URL."""
        ids = (await read_json(request)).get("ids", [])
        if not isinstance(ids, list) or len(ids) > MOST_SCORED_AT_ONCE:
            raise Refusal(HTTPStatus.BAD_REQUEST, "INVALID_REQUEST", "name at most 200 jobs")
        wanted = [each for each in ids if isinstance(each, str)]
        return answer({"jobs": await _threaded(lambda: self._catalogue.score(wanted))})

    def spending(self, _: Request) -> Response:
        """Add up jobs and cost by day and group."""
        found, _revision = self._catalogue.since(0)
        return answer({"days": spending(found)})

    async def queue(self, request: Request) -> Response:
        """Pass a request on to POST /jobs."""
        content = await read_json(request)
        return _handed_on(
            await _threaded(lambda: self._account.caller.call("POST", "/jobs", content=content))
        )

    def job(self, request: Request) -> Response:
        """Pass GET /jobs/{id} on."""
        return _handed_on(self._account.caller.call("GET", f"/jobs/{_job_id(request)}"))

    def result(self, request: Request) -> Response:
        """Answer the job's result."""
        return answer({"result": self._library.known(_job_id(request), anew=True).result.shown()})

    def truth(self, request: Request) -> Response:
        """Tell where the job's ground truth lies; a call of its own, because S3 is asked for many names."""
        truth = self._library.truth(self._library.known(_job_id(request)))
        found = {"uri": truth.found.uri, "etag": truth.seen, "drawn": truth.drawn} if truth else None
        return answer({"truth": found})

    def log(self, request: Request) -> Response:
        """List the job's log lines, the oldest first."""
        return answer({"lines": [vars(line) for line in self._account.log_lines(_job_id(request))]})

    def redrive(self, request: Request) -> Response:
        """Send a failed job again."""
        if not self._account.redrive(_job_id(request)):
            raise Refusal(HTTPStatus.CONFLICT, "NOT_FAILED", "the job is not FAILED any more")
        return answer({"redriven": True})

    def thumbnail(self, request: Request) -> Response:
        """Draw a page, or else the first one, small, with its mask's outline, as PNG."""
        row = self._library.row(_job_id(request))
        page = _number(request, "page") if "page" in request.query_params else None
        small = self._small.get((row.job_id, row.updated_at, page), lambda: self._thumbnail(row.job_id, page))
        return Response(small, media_type="image/png")

    def layer(self, request: Request) -> Response:
        """Describe a layer in a line of JSON; a small page's values follow, so that no tile is asked for.

        Probabilities tell the confluence at every threshold, cleaned cells their own.
        """
        raster, name = self._raster(request), request.path_params["layer"]
        more: dict[str, Any] = {"opened": self._opened.add(raster)}
        if name == "probability":
            more["confluence"] = shares_above(raster.shades)
        if name == CLEANED:
            more["share"] = float(np.count_nonzero(raster.shades) / raster.shades.size)
        line = msgspec.json.encode(raster.describe() | more) + b"\n"
        small = raster.shades.size <= WHOLE_PIXELS
        return Response(line + (_little_endian(raster.shades) if small else b""), media_type=BYTES)

    def tile(self, request: Request) -> Response:
        """Answer a tile's values, row by row, little-endian."""
        place = request.path_params
        opened = self._opened.find(request.query_params.get("opened", ""))
        raster = opened or self._raster(request)
        found = raster.tile(place["level"], place["column"], place["row"])
        if found is None:
            raise Refusal(HTTPStatus.NOT_FOUND, "NO_TILE", "the page ends before this tile")
        height, width = found.shape
        headers = {"X-Width": str(width), "X-Height": str(height)}
        return Response(_little_endian(found), media_type=BYTES, headers=headers)

    async def save_truth(self, request: Request) -> Response:
        """Store the painting as the ground truth; 409 if another one was saved meanwhile."""
        job_id, page = _job_id(request), request.path_params["page"]
        _require_bytes(request)
        base, seen = request.query_params.get("base", "mask"), request.query_params.get("seen", "")
        if base not in ("mask", "truth", "empty"):
            raise Refusal(HTTPStatus.BAD_REQUEST, "INVALID_REQUEST", "paint on mask, truth or empty")
        known = await _threaded(lambda: self._library.known(job_id))
        described = known.page(page)
        height, width = described.height, described.width
        tiles = parse_tiles(await read_body(request, most_bytes(height, width)), height, width)
        saved = await _threaded(lambda: self._painter.save(known, page, Painting(base, seen, tiles)))
        return answer({"uri": saved.uri, "etag": saved.etag, "version": saved.version})

    async def begin_upload(self, request: Request) -> Response:
        """Sign addresses to put an image to."""
        asked = await read_json(request)
        key, size, replace = _text(asked, "key"), asked.get("size"), asked.get("replace") is True
        if not isinstance(size, int):
            raise Refusal(HTTPStatus.BAD_REQUEST, "INVALID_REQUEST", "`size` is a number of bytes")
        return answer(await _threaded(lambda: self.uploads.begin(key, size, replace)))

    async def complete_upload(self, request: Request) -> Response:
        """Join an upload's parts."""
        asked = await read_json(request)
        key, upload_id, etags = _text(asked, "key"), _text(asked, "upload_id"), asked.get("etags")
        if not isinstance(etags, list):
            raise Refusal(HTTPStatus.BAD_REQUEST, "INVALID_REQUEST", "`etags` is a list")
        await _threaded(lambda: self.uploads.complete(key, upload_id, [str(each) for each in etags]))
        return answer({"completed": True})

    async def abort_upload(self, request: Request) -> Response:
        """Throw an upload's parts away."""
        asked = await read_json(request)
        key, upload_id = _text(asked, "key"), _text(asked, "upload_id")
        await _threaded(lambda: self.uploads.abort(key, upload_id))
        return answer({"aborted": True})

    async def upload_through(self, request: Request) -> Response:
        """Take an image's bytes for a bucket that refuses the browser; `replace=yes` replaces an image."""
        _require_bytes(request)
        replace = request.query_params.get("replace") == "yes"
        await self.uploads.receive(request, request.query_params.get("key", ""), replace)
        return answer({"completed": True})

    async def ask_download(self, request: Request) -> Response:
        """Note a download; answer its address."""
        asked = await read_json(request, MOST_IDS_BYTES)
        ids = asked.get("ids")
        if not isinstance(ids, list):
            raise Refusal(HTTPStatus.BAD_REQUEST, "INVALID_REQUEST", "`ids` is a list of jobs")
        ids = [each for each in ids if isinstance(each, str) and JOB_ID.fullmatch(each)]
        return answer({"url": f"/api/downloads/{self._tickets.add(_text(asked, 'kind'), ids)}"})

    def download(self, request: Request) -> Response:
        """Stream a download."""
        ticket = self._tickets.find(request.path_params["name"])
        if ticket.kind == "table":
            return _attached(table_of(self._scored(ticket.ids)), "cytomask.csv", "text/csv; charset=utf-8")
        made = self._archive.masks if ticket.kind == "masks" else self._archive.pairs
        return _attached(made(ticket.ids), f"cytomask-{ticket.kind}.zip", "application/zip")

    def _scored(self, ids: Sequence[str]) -> Iterator[Entry]:
        """Yield the entries of jobs with their scores as they are now, in the order of their ids."""
        entries = {each.id: each for each in self._catalogue.since(0)[0]}
        found = [entries[each] for each in ids if each in entries]
        for start in range(0, len(found), MOST_SCORED_AT_ONCE):
            some = found[start : start + MOST_SCORED_AT_ONCE]
            self._catalogue.score(each.id for each in some)
            yield from some

    def plates(self, _: Request) -> Response:
        """List every plate, by name."""
        return answer({"plates": self._plates.listed()})

    def plate(self, request: Request) -> Response:
        """Show a plate over time; `leave_out` names flags whose pages are unused, `control` a condition."""
        flags = request.query_params.get("leave_out", "")
        options = Options(
            leave_out=frozenset(filter(None, flags.split(","))),
            control=request.query_params.get("control") or None,
        )
        return answer(self._plates.report(request.path_params["plate"], options))

    def _raster(self, request: Request) -> Raster:
        place = request.path_params
        if place["layer"] == CLEANED:
            return self._library.cleaned(_job_id(request), place["page"], _share(request, "threshold"))
        if place["layer"] not in LAYERS:
            raise Refusal(HTTPStatus.NOT_FOUND, "NO_LAYER", f"choose one of {', '.join(LAYERS)}")
        return self._library.raster(place["layer"], _job_id(request), place["page"])

    def _thumbnail(self, job_id: str, number: int | None) -> Thumbnail:
        pages = self._library.known(job_id).result.pages
        if not pages:
            raise Refusal(HTTPStatus.NOT_FOUND, "NO_SUCH_PAGE", "the job has no page")
        number = pages[0].page if number is None else number
        page = self._library.raster("image", job_id, number)
        level = halvings(max(page.shades.shape), THUMBNAIL)
        small = page.view(level)
        try:
            mask = self._library.raster("mask", job_id, number).view(level) >= 128
        except Refusal:
            mask = np.zeros(small.shape, bool)
        return Thumbnail(images.encode_overlay(small, mask))


async def _threaded(call: Callable[[], Any]) -> Any:
    """Run a call that waits for AWS in a thread, beside the event loop."""
    return await run_in_threadpool(call)


def _little_endian(shades: SHADES) -> bytes:
    return shades.astype(shades.dtype.newbyteorder("<"), copy=False).tobytes()


def _handed_on(answered: Answer) -> Response:
    return Response(answered.body, answered.status, media_type=answered.kind)


def _attached(parts: Any, name: str, kind: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(parts, media_type=kind, headers=headers)


def _job_id(request: Request) -> str:
    job_id = str(request.path_params["job"])
    if not JOB_ID.fullmatch(job_id):
        raise Refusal(HTTPStatus.NOT_FOUND, "NO_SUCH_JOB", "a job's id has 32 hex digits")
    return job_id


def _require_bytes(request: Request) -> None:
    """Refuse a body that a form could send."""
    if request.headers.get("content-type") != BYTES:
        raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE", f"send {BYTES}")


def _number(request: Request, name: str) -> int:
    text = request.query_params.get(name, "0")
    if not (text.isascii() and text.isdecimal() and len(text) < 16):
        raise Refusal(HTTPStatus.BAD_REQUEST, "INVALID_REQUEST", f"`{name}` is a number")
    return int(text)


def _share(request: Request, name: str) -> float:
    try:
        value = float(request.query_params.get(name, ""))
    except ValueError:
        value = -1
    if not 0 <= value <= 1:
        raise Refusal(HTTPStatus.BAD_REQUEST, "INVALID_REQUEST", f"`{name}` is a number from 0 to 1")
    return value


def _text(asked: dict[str, Any], name: str) -> str:
    value = asked.get(name)
    if not isinstance(value, str):
        raise Refusal(HTTPStatus.BAD_REQUEST, "INVALID_REQUEST", f"`{name}` is a text")
    return value
