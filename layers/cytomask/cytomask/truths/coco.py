"""COCO files: split into a small one for each image name, drawn as the union of an image's annotations.

A whole data set's file has hundreds of megabytes. Its outlines are therefore passed on as the text that they
are, and read only when the one image that they belong to is scored.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as pycocotools

from cytomask.errors import GroundTruthMismatch, ImageNotNamed, UnreadableCoco
from cytomask.metrics import Mask
from cytomask.truths.limits import Size

MEBI = 2**20
MOST_OUTLINE_BYTES = 16 * MEBI
LONGEST_OUTLINE = 2_000_000  # pixels, for each of which pycocotools takes some 100 bytes
LONGEST_NAME = 255

Id = int | str
Polygons = list[list[float]]


class _Image(msgspec.Struct, gc=False):
    id: Id
    file_name: Annotated[str, msgspec.Meta(min_length=1)]
    width: Annotated[int, msgspec.Meta(ge=1)]
    height: Annotated[int, msgspec.Meta(ge=1)]

    @property
    def name(self) -> str:
        return PurePosixPath(self.file_name).name

    @property
    def size(self) -> Size:
        return self.height, self.width


class _Annotation(msgspec.Struct, gc=False):
    image_id: Id
    segmentation: msgspec.Raw
    id: Id | None = None


class _File(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]


class _RunLengths(msgspec.Struct):
    size: tuple[int, int]
    counts: list[Annotated[int, msgspec.Meta(ge=0)]] | str


@dataclass(frozen=True)
class Coco:
    """A COCO file that was read; `annotations_without_image` belong to no image that it lists."""

    by_name: dict[str, list[_Image]]
    by_image: dict[Id, list[_Annotation]]
    annotations: int
    annotations_without_image: int

    @property
    def images(self) -> int:
        """How many images it names, each once however often it is listed."""
        return len(self.by_name)

    def part(self, name: str) -> bytes:
        """A COCO file of all that is said of the images with this base name, a key of `by_name`."""
        images = self.by_name[name]
        ids = dict.fromkeys(image.id for image in images)
        annotations = [annotation for each in ids for annotation in self.by_image.get(each, [])]
        return msgspec.json.encode(_File(images, annotations))


def read_coco(content: bytes, name: str) -> Coco:
    """Reads a COCO file but for its outlines.

    Args:
        content: the file's bytes.
        name: what to call it in errors.

    Raises:
        UnreadableCoco: not JSON, no images, a field missing, or one id for two images.
    """
    file = _decode(content, name)
    if not file.images:
        raise UnreadableCoco(f"{name} lists no images; export it anew, with its images")
    named: dict[Id, _Image] = {}
    by_name = defaultdict(list)
    for image in file.images:
        if not 1 <= len(image.name.encode()) <= LONGEST_NAME:
            raise UnreadableCoco(
                f"{name} has an image whose file_name is no file's: {image.file_name[:100]!r}; correct it"
            )
        first = named.setdefault(image.id, image)
        if first.file_name != image.file_name:
            raise UnreadableCoco(
                f"{name} gives the id {image.id} to {first.file_name} and to {image.file_name}; "
                "export it anew, with an id for each image"
            )
        by_name[image.name].append(image)
    by_image = defaultdict(list)
    for annotation in file.annotations:
        by_image[annotation.image_id].append(annotation)
    orphans = sum(len(each) for image_id, each in by_image.items() if image_id not in named)
    return Coco(dict(by_name), dict(by_image), len(file.annotations), orphans)


def draw_coco(part: bytes, name: str, image_uri: str, sizes: Sequence[Size]) -> Mask:
    """The ground truth of one image, (H, W) bool: every pixel inside an annotation of whatever category.

    An image that is listed more than once has the annotations of all its entries.

    Args:
        part: what `Coco.part` says of images with this one's base name.
        name: what to call the COCO file in errors.
        image_uri: of the image; where several folders of the file have its name, its own folders decide.
        sizes: height and width of every page of the mask.

    Raises:
        ImageNotNamed: only images of the same name in other folders are listed, and more than one.
        GroundTruthMismatch: the mask has several pages or another size.
        UnreadableCoco: an annotation that is no polygon and no run-length encoding of the image's size.
    """
    file = _decode(part, name)
    images = _images_of(file, name, image_uri)
    size = _require_size(images, name, sizes)
    ids = {image.id for image in images}
    encoded: list[object] = []
    cells = np.zeros(size, np.bool_)
    for annotation in file.annotations:
        if annotation.image_id not in ids:
            continue
        called = f"annotation {annotation.id} of {images[0].file_name} in {name}"
        outline = _decode_outline(annotation, called)
        if isinstance(outline, _RunLengths):
            cells |= _paint(outline, size, called)
        else:
            _require_drawable(outline, size, called)
            encoded += pycocotools.frPyObjects(outline, *size)
    if encoded:
        cells |= pycocotools.decode(pycocotools.merge(encoded)) > 0
    return cells


def _decode(content: bytes, name: str) -> _File:
    try:
        return msgspec.json.decode(content, type=_File)
    except (msgspec.DecodeError, RecursionError) as error:  # a ValidationError is a DecodeError
        raise UnreadableCoco(f"{name} is no COCO file ({error}); export it anew") from error


def _images_of(file: _File, name: str, uri: str) -> list[_Image]:
    """The entries of one image: of its file_name as a whole where folders differ."""
    files = {image.file_name for image in file.images}
    if len(files) > 1:
        files = {each for each in files if uri.endswith(f"/{each}")}
    if len(files) != 1:
        raise ImageNotNamed(
            f"{name} lists several images called {PurePosixPath(uri).name}, and the folders of {uri} do "
            "not say which it is; split it by folder, and upload each with `cytomask evaluate --images`"
        )
    return [image for image in file.images if image.file_name in files]


def _require_size(images: Sequence[_Image], name: str, sizes: Sequence[Size]) -> Size:
    if len(sizes) != 1:
        raise GroundTruthMismatch(
            f"{name} describes one page of {images[0].file_name} and the mask has {len(sizes)}; "
            "upload a ground truth with a page for each"
        )
    height, width = sizes[0]
    for image in images:
        if image.size != (height, width):
            raise GroundTruthMismatch(
                f"{name} says that {image.file_name} is {image.width} x {image.height} pixels and the mask "
                f"{width} x {height}; annotate the image in its own size"
            )
    return height, width


def _decode_outline(annotation: _Annotation, called: str) -> Polygons | _RunLengths:
    text = memoryview(annotation.segmentation)
    if text.nbytes > MOST_OUTLINE_BYTES:
        raise UnreadableCoco(
            f"{called} has {text.nbytes / MEBI:.0f} MiB of coordinates, the limit is "
            f"{MOST_OUTLINE_BYTES // MEBI} MiB; draw it with fewer points"
        )
    try:
        return msgspec.json.decode(text, type=Polygons | _RunLengths)
    except msgspec.DecodeError as error:
        raise UnreadableCoco(
            f"{called} is neither polygons nor a run-length encoding ({error}); correct its segmentation"
        ) from error


def _require_drawable(polygons: Polygons, size: Size, called: str) -> None:
    """Refuses what pycocotools would take for something else, or would not survive."""
    if not polygons:
        raise UnreadableCoco(f"{called} has no polygon; draw its outline or remove it")
    height, width = size
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2:
            raise UnreadableCoco(
                f"{called} has a polygon of {len(polygon)} numbers; it takes x and y of at least three points"
            )
        points = np.array(polygon).reshape(-1, 2)  # points, x and y
        far = np.abs(points - (width / 2, height / 2)) > (1.5 * width, 1.5 * height)
        if far.any() or not np.isfinite(points).all():
            x, y = points[np.argmax(far.any(axis=1))]
            raise UnreadableCoco(
                f"{called} goes through x = {x:g}, y = {y:g}, far off the image's {width} x {height} pixels; "
                "give coordinates in pixels of the image"
            )
        steps = np.abs(np.diff(points, axis=0, append=points[:1])).max(axis=1)
        if math.fsum(steps) > LONGEST_OUTLINE:
            raise UnreadableCoco(
                f"{called} has an outline of {math.fsum(steps):.0f} pixels, the limit is {LONGEST_OUTLINE}; "
                "draw it with fewer points"
            )


def _paint(runs: _RunLengths, size: Size, called: str) -> Mask:
    """Run lengths as a mask; pycocotools writes past its end where they are longer than that."""
    counts = _decode_counts(runs.counts, called) if isinstance(runs.counts, str) else runs.counts
    height, width = size
    if runs.size != size or sum(counts) != height * width or min(counts, default=0) < 0:
        raise UnreadableCoco(
            f"{called} has run lengths of {runs.size[1]} x {runs.size[0]} pixels, {sum(counts)} in sum, "
            f"and the image has {width} x {height}, which is {height * width}; export it anew"
        )
    values = np.arange(len(counts)) % 2 == 1
    columns: NDArray[np.bool_] = np.repeat(values, counts).reshape(width, height)  # columns, rows
    return columns.T


def _decode_counts(text: str, called: str) -> list[int]:
    """COCO's compressed run lengths: five bits a letter, from the third run on as a difference.

    pycocotools reads past the end of a text that was cut short.
    """
    counts: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise UnreadableCoco(
                f"{called} has run lengths that are damaged at the letter {letter!r}; export it anew"
            )
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise UnreadableCoco(f"{called} has run lengths that were cut short; export it anew")
    return counts
