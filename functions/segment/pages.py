"""One image from its bytes to pages, predictions and encoded pictures. Knows no AWS."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from io import BytesIO
from types import TracebackType

import tifffile

from cytomask import budget, images, metrics
from cytomask.acquisition import Acquisition
from cytomask.budget import Budget
from cytomask.errors import ImageLocked, ImageTooLarge, NotAcceptable, RejectedInput
from cytomask.images import ImageFile, Limits, Page
from cytomask.images.facts import date_of
from cytomask.lengths import UM2_A_MM2, PixelSize
from cytomask.model import preprocess
from cytomask.model.predictor import Prediction, Predictor
from cytomask.records import Flag, PageResult, Result, Tiling
from cytomask.requests import Parameters
from cytomask.stack_times import page_times
from cytomask.telemetry import Stopwatch

# While a caller waits. A megapixel takes 0.8 to 1.2 CPU seconds; this leaves room for a slow CPU and a cold
# start within HttpApi's 30 s.
PIXELS_WHILE_WAITING = 8 * images.MEGA


class Source:
    """An image that is fetched and opened when it is first asked for, and once only."""

    def __init__(
        self,
        fetch: Callable[[], bytes],
        name: str,
        limits: Limits,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        """Make a source of what `fetch` returns; `close` is called at the end in any case."""
        self._fetch = fetch
        self._close = close
        self._limits = limits
        self._stack = ExitStack()
        self._opened: ImageFile | RejectedInput | None = None
        self._content = b""
        self.name = name

    def __enter__(self) -> "Source":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self._close()

    def open(self) -> ImageFile:
        """Open the image; raise RejectedInput if it was refused, now or before."""
        if self._opened is None:
            try:
                self._content = self._fetch()
                images.require_size(len(self._content), self.name, self._limits)
                self._opened = self._stack.enter_context(
                    images.open_image(self._content, self.name, self._limits)
                )
            except RejectedInput as error:
                self._opened = error
        if isinstance(self._opened, RejectedInput):
            raise self._opened
        return self._opened

    def is_locked(self) -> bool:
        """Tell whether the bytes are kept from us; an image that is refused for another reason was read."""
        try:
            self.open()
        except RejectedInput as error:
            return isinstance(error, ImageLocked)
        return False

    def times(self) -> Sequence[Acquisition]:
        """Return each page's time as the file's own metadata tells it; nothing if it tells none."""
        try:
            pages = len(self.open().pages)
            with tifffile.TiffFile(BytesIO(self._content)) as file:
                date = date_of(file.pages.first)
                description = file.pages.first.description
        except Exception:  # not a TIFF, or a damaged one, whose pages are judged elsewhere
            return ()
        return page_times(description, date, pages)

    def select(self, parameters: Parameters) -> list[int]:
        """List the pages asked for if the header says that they can be read; raise RejectedInput."""
        image = self.open()
        wanted = parameters.selected(len(image.pages), self.name)
        images.check(image, wanted, parameters.channel, self._limits)
        for index in wanted:
            self.cleaner(parameters, index)
        return wanted

    def pixel_size(self, parameters: Parameters, index: int) -> PixelSize | None:
        """Return the size of a page's pixels, if the request or the file says it; raise RejectedInput."""
        return PixelSize.chosen(parameters.pixel_size_um, self.open().pages[index].pixel_size)

    def cleaner(self, parameters: Parameters, index: int) -> Callable[[metrics.Mask], metrics.Mask] | None:
        """Return the function that cleans a page's mask as the request asks, or None; raise RejectedInput."""
        if not parameters.cleans:
            return None
        from cytomask.cleaning import cleaner_of  # noqa: PLC0415  # a cold start does without contourpy

        return cleaner_of(parameters, self.pixel_size(parameters, index), self.name)


def require_answer_in_time(source: Source, parameters: Parameters, one_mask: bool) -> None:
    """Look at an image's header before anything is done for a caller who waits.

    Raises:
        ImageTooLarge: it cannot be segmented while somebody waits for the answer.
        NotAcceptable: `one_mask` is wanted and it has several pages.
        RejectedInput: it has another fault.
    """
    wanted, image = source.select(parameters), source.open()
    if one_mask and len(wanted) > 1:
        raise NotAcceptable(
            f"{image.name} has {len(wanted)} pages and a PNG holds one mask; name a page with `pages`, "
            "or accept application/json"
        )
    pixels = sum(image.pages[index].height * image.pages[index].width for index in wanted)
    if pixels > PIXELS_WHILE_WAITING:
        raise ImageTooLarge(
            f"{image.name} has {pixels / images.MEGA:.1f} megapixels; the limit while you wait is "
            f"{PIXELS_WHILE_WAITING // images.MEGA}. Upload it and name it to POST /jobs"
        )
    _require_budget(image, wanted, parameters, budget.WAITING)


def _require_budget(image: ImageFile, wanted: Sequence[int], parameters: Parameters, within: Budget) -> None:
    """Raise ImageTooLarge if a job's headers show that it takes too long."""
    tiles = len(wanted)
    if parameters.mode == "native":
        headers = (image.pages[index] for index in wanted)
        tiles = sum(preprocess.plan_tiles(page.height, page.width).count for page in headers)
    budget.require(
        image,
        wanted,
        parameters.channel,
        tiles=tiles,
        outputs=parameters.outputs,
        cleaned=parameters.cleans,
        budget=within,
    )


def predictions(
    source: Source, parameters: Parameters, predictor: Predictor, limits: Limits, watch: Stopwatch
) -> Iterator[tuple[Page, Prediction]]:
    """Segment the pages asked for, one after the other; the threshold of `parameters` is settled."""
    image, wanted = source.open(), source.select(parameters)
    _require_budget(image, wanted, parameters, budget.QUEUE)
    pages = images.read_pages(image, wanted, parameters.channel, limits)
    while True:
        with watch.stage("decode"):
            page = next(pages, None)
        if page is None:
            return
        with watch.stage("infer"):
            prediction = predictor.predict(page.pixels, parameters.mode, parameters.threshold)
        if clean := source.cleaner(parameters, page.index):
            with watch.stage("clean"):
                prediction = prediction.cleaned(clean)
        yield page, prediction


def describe(page: Page, prediction: Prediction, pixel_size: PixelSize | None) -> PageResult:
    """Return what the result says of a page, without its outputs."""
    height, width = page.pixels.shape
    cells = int(prediction.mask.sum())
    plan = prediction.plan
    return PageResult(
        page=page.index,
        height=height,
        width=width,
        dtype=page.dtype,
        orientation=page.orientation,
        turned=page.turned,
        luma=page.luma,
        confluence=metrics.confluence(prediction.mask),
        confluence_low=prediction.confluence_low,
        confluence_high=prediction.confluence_high,
        quality=[Flag(flag.name, flag.value) for flag in prediction.quality],
        pixel_size_um=(pixel_size.width_um, pixel_size.height_um) if pixel_size else None,
        cell_area_mm2=cells * pixel_size.area_um2 / UM2_A_MM2 if pixel_size else None,
        tiles=Tiling(plan.count, plan.tile, plan.overlap) if plan else None,
    )


def summarise(result: Result, pages: Sequence[PageResult]) -> None:
    """Note in a result that all pages succeeded: confluence over all pixels, first flag of each name."""
    areas = [page.height * page.width for page in pages]

    def pooled(confluences: Iterable[float | None]) -> float:
        cells = sum((share or 0) * area for share, area in zip(confluences, areas, strict=True))
        return float(cells / sum(areas))

    result.status = "SUCCEEDED"
    result.confluence = pooled(page.confluence for page in pages)
    result.confluence_low = pooled(page.confluence_low for page in pages)
    result.confluence_high = pooled(page.confluence_high for page in pages)
    told = [page.cell_area_mm2 for page in pages if page.cell_area_mm2 is not None]
    result.cell_area_mm2 = sum(told) if len(told) == len(pages) else None
    flags = [flag for page in pages for flag in page.quality]
    result.quality = list({flag.name: flag for flag in reversed(flags)}.values())[::-1]
    result.mask = pages[0].mask
