"""Read and write requests for one image, and check their fields. Pure: nothing here calls AWS."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import PurePosixPath
from typing import Annotated, Literal, TypeVar

import msgspec

from cytomask.acquisition import Acquisition, check_plate, check_time, check_well
from cytomask.addresses import S3Object, parse_uri
from cytomask.errors import InvalidRequest, NoSuchPage
from cytomask.lengths import LARGEST_PIXEL_UM, SMALLEST_PIXEL_UM

Mode = Literal["native", "resize"]
Output = Literal["mask", "probability", "overlay", "rois", "geojson", "labels", "ome"]
Shape = TypeVar("Shape")
PAGES = re.compile(r"all|[0-9]{1,6}(-[0-9]{1,6})?")
LARGEST_MIN_SIZE = 1e9
NO_OBJECT = 'the request is not a JSON object; send one, such as {"image": "s3://bucket/key"}'
NOWHERE = Acquisition()


@dataclass(frozen=True)
class Parameters:
    """How to segment an image; docs/requests.md explains the fields."""

    threshold: float | None = None
    mode: Mode = "native"
    pages: str = "all"
    channel: int | None = None
    outputs: tuple[Output, ...] = ("mask",)
    min_size_px: int | None = None
    min_size_um2: float | None = None
    fill_holes: bool = False
    pixel_size_um: tuple[float, float] | None = None

    @property
    def cleans(self) -> bool:
        """Whether it asks to clean the network's mask."""
        return bool(self.min_size_px or self.min_size_um2 or self.fill_holes)

    def selected(self, count: int, name: str) -> list[int]:
        """List the requested pages of an image that has `count`; raise NoSuchPage past its end."""
        if self.pages == "all":
            return list(range(count))
        first, _, last = self.pages.partition("-")
        wanted = range(int(first), int(last or first) + 1)
        if wanted.stop > count:
            raise NoSuchPage(
                f"{name} has no page {wanted.stop - 1}: it has {count}, counted from 0; correct `pages`"
            )
        return list(wanted)


@dataclass(frozen=True)
class SegmentRequest:
    """One image to segment.

    Attributes:
        label: the group to report it by, if the request names one.
        place: where and when it was taken, if the request gives it.
        expected_pages: number of pages that its plate will have, if the request gives it.
    """

    image: S3Object
    parameters: Parameters = Parameters()
    ground_truth: S3Object | None = None
    label: str | None = None
    place: Acquisition = NOWHERE
    expected_pages: int | None = None

    @property
    def group(self) -> str:
        """The label, or the cell line of a LIVECell-style name (`A172_Phase_C7_…`), or nothing."""
        if self.label is not None:
            return self.label
        line, found, _ = PurePosixPath(self.image.key).name.partition("_Phase_")
        return line if found else ""


class _ParameterFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    threshold: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    mode: Mode = "native"
    pages: int | str = "all"
    channel: Annotated[int, msgspec.Meta(ge=0, le=999)] | None = None
    min_size_px: Annotated[float, msgspec.Meta(ge=0, le=LARGEST_MIN_SIZE)] | None = None
    min_size_um2: Annotated[float, msgspec.Meta(ge=0, le=LARGEST_MIN_SIZE)] | None = None
    fill_holes: bool = False
    # Bounds in the type would corrupt memory: msgspec 0.22.0 mixes up bounds and tuples in a union.
    pixel_size_um: float | tuple[float, float] | None = None


class _RequestFields(_ParameterFields, frozen=True, forbid_unknown_fields=True):
    image: str | None = None
    image_path: str | None = None
    ground_truth: str | None = None
    outputs: tuple[Output, ...] = ("mask",)
    group: Annotated[str, msgspec.Meta(max_length=256)] | None = None
    plate: str | None = None
    well: str | None = None
    site: float | Annotated[str, msgspec.Meta(max_length=32)] | None = None
    time: float | str | None = None
    cell_line: Annotated[str, msgspec.Meta(max_length=128)] | None = None
    expected_pages: Annotated[float, msgspec.Meta(ge=1, le=10_000_000)] | None = None


ACCEPTED = {
    "image": "the image as s3://bucket/key",
    "image_path": "the same as `image`: s3://bucket/key",
    "ground_truth": "a mask image or a COCO file as s3://bucket/key",
    "threshold": "a probability from 0 to 1",
    "mode": '"native" or "resize"',
    "pages": '"all", a page counted from 0, or a range such as "0-3"',
    "channel": "the channel's number, counted from 0",
    "outputs": 'a list of "mask", "probability", "overlay", "rois", "geojson", "labels" and "ome", not empty',
    "min_size_px": "the area of the smallest region to keep, a whole number of pixels",
    "min_size_um2": "the area of the smallest region to keep, in square micrometres",
    "fill_holes": "true or false",
    "pixel_size_um": f"a pixel's side in micrometres, {SMALLEST_PIXEL_UM:g} to {LARGEST_PIXEL_UM:g}, or its "
    "[width, height]",
    "group": "a label of at most 256 characters",
    "plate": "the plate's name, of 1 to 128 characters without `/`",
    "well": "a well such as B2 or B02",
    "site": "the field of view within the well, a number or at most 32 characters",
    "time": "hours since the first scan, elapsed time as 00d04h30m, or a date as 2026-11-25T13:20",
    "cell_line": "a name of at most 128 characters",
    "expected_pages": "how many pages the plate will have, 1 to 10,000,000",
}


def parse_request(event: object) -> SegmentRequest:
    """Read a request that a person or a program wrote; raise InvalidRequest."""
    if not isinstance(event, dict):
        raise InvalidRequest(NO_OBJECT)
    fields = convert(event, _RequestFields)
    if (fields.image is None) == (fields.image_path is None):
        raise InvalidRequest(f"the request takes one of `image` and `image_path`: {ACCEPTED['image']}")
    name = "image" if fields.image is not None else "image_path"
    image = parse_uri(fields.image or fields.image_path or "", name, ACCEPTED[name])
    if not fields.outputs:
        raise _refusal("outputs", "it is empty")
    truth = fields.ground_truth
    ground_truth = None if truth is None else parse_uri(truth, "ground_truth", ACCEPTED["ground_truth"])
    return SegmentRequest(
        image,
        replace(_parameters_of(fields), outputs=tuple(sorted(set(fields.outputs)))),
        ground_truth,
        fields.group,
        _place_of(fields),
        None if fields.expected_pages is None else _whole("expected_pages", fields.expected_pages),
    )


def _whole(field: str, number: float) -> int:
    """Return a whole number that JSON may write as 3 or 3.0; raise InvalidRequest for others."""
    if not number.is_integer():
        raise _refusal(field, f"{number:g} is not a whole number")
    return int(number)


def _site_of(site: float | str | None) -> str | None:
    if isinstance(site, str):
        return site.strip() or None
    return None if site is None else str(_whole("site", site))


def _place_of(fields: _RequestFields) -> Acquisition:
    """Return where and when the image was taken, as far as the request says; raise InvalidRequest."""
    told = Acquisition(
        plate=None if fields.plate is None else check_plate(fields.plate),
        well=None if fields.well is None else check_well(fields.well),
        site=_site_of(fields.site),
        time=None if fields.time is None else check_time(fields.time),
        cell_line=fields.cell_line or None,
    )
    return told if told == NOWHERE else msgspec.structs.replace(told, sources=("request",))


def parse_parameters(fields: Mapping[str, str]) -> Parameters:
    """Read from text how to segment an image that comes without a request; raise InvalidRequest."""
    return parse_fields(_query(fields))


def parse_fields(fields: Mapping[str, object]) -> Parameters:
    """Read how to segment an image, from values as JSON has them; raise InvalidRequest."""
    return _parameters_of(convert(fields, _ParameterFields))


def _parameters_of(fields: _ParameterFields) -> Parameters:
    """Check rules beyond the types, and give each choice one spelling; raise InvalidRequest."""
    if fields.min_size_px and fields.min_size_um2:
        raise _refusal("min_size_um2", "`min_size_px` is given too; choose one of the two")
    size = fields.pixel_size_um
    sides = (size, size) if isinstance(size, float) else size
    if sides and not all(SMALLEST_PIXEL_UM <= side <= LARGEST_PIXEL_UM for side in sides):
        raise _refusal("pixel_size_um", f"{size} is out of range")
    return Parameters(
        threshold=fields.threshold,
        mode=fields.mode,
        pages=_parse_pages(fields.pages),
        channel=fields.channel,
        min_size_px=_whole("min_size_px", fields.min_size_px) if fields.min_size_px else None,
        min_size_um2=fields.min_size_um2 or None,
        fill_holes=fields.fill_holes,
        pixel_size_um=sides,
    )


def complete(event: object, fields: Mapping[str, str]) -> object:
    """Merge query parameters into the request; fields of the body win. Raise InvalidRequest."""
    return _query(fields) | event if isinstance(event, dict) else event


def _query(fields: Mapping[str, str]) -> dict[str, object]:
    for name, text in fields.items():
        if text.lower() == "null" and name in ACCEPTED:  # msgspec takes it for nothing
            raise _refusal(name, f'"{text}" is none of these')
    given: dict[str, object] = msgspec.to_builtins(convert(fields, _ParameterFields, strict=False))
    return given


def message_of(request: SegmentRequest) -> str:
    """Write the message that `parse_body` reads as this request."""
    fields = {"image": request.image.uri} | asdict(request.parameters) | {"group": request.label}
    fields["ground_truth"] = request.ground_truth.uri if request.ground_truth else None
    fields |= {name: getattr(request.place, name) for name in ("plate", "well", "site", "time", "cell_line")}
    fields["expected_pages"] = request.expected_pages
    return ascii_json({name: value for name, value in fields.items() if value is not None})


def ascii_json(message: object) -> str:
    """Encode a message in ASCII, because SQS does not accept all of Unicode."""
    return json.dumps(msgspec.to_builtins(message))


def _parse_pages(pages: int | str) -> str:
    text = str(pages)
    first, _, last = text.partition("-")
    if not PAGES.fullmatch(text) or (last and int(last) < int(first)):
        raise _refusal("pages", f'"{text[:50]}" is none of these')
    return text if text == "all" else "-".join(map(str, dict.fromkeys([int(first), int(last or first)])))


def decode(body: str | bytes) -> object:
    """Read JSON; raise InvalidRequest."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(
            f'the message is not JSON ({error}); send an object such as {{"image": "s3://bucket/key"}}'
        ) from error


def convert(event: object, shape: type[Shape], strict: bool = True) -> Shape:
    """Read a decoded message as a struct; raise InvalidRequest, which says what a request takes.

    Args:
        event: decoded JSON.
        shape: the struct's class.
        strict: whether numbers must be numbers; otherwise text is accepted too.
    """
    try:
        return msgspec.convert(event, shape, strict=strict)
    except msgspec.ValidationError as error:
        field = re.search(r"`\$\.(\w+)", str(error))
        if field and field[1] in ACCEPTED:
            raise _refusal(field[1], str(error).partition(" - at")[0][:300]) from error
        taken = [name for name in ACCEPTED if name in getattr(shape, "__struct_fields__", ())] or ACCEPTED
        raise InvalidRequest(f"{str(error)[:300]}; a request takes {', '.join(taken)}") from error


def _refusal(field: str, fault: str) -> InvalidRequest:
    return InvalidRequest(f"`{field}`: {fault}; it takes {ACCEPTED[field]}")
