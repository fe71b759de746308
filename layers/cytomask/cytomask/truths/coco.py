"""Read COCO files: the images that they list, and the union of each image's annotations.

A data set's file can have hundreds of megabytes. Outlines stay text until their image is drawn, and
`Coco.part` makes a small file for each image name. A fault in one image or annotation rejects only that
image.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import msgspec

from cytomask.errors import GroundTruthMismatch, ImageNotNamed, NothingDrawn, UnreadableCoco
from cytomask.metrics import Mask
from cytomask.truths import names
from cytomask.truths.coco_format import (
    Annotation,
    Entry,
    decode,
    id_text,
    read_annotation,
    read_entry,
    values,
)
from cytomask.truths.limits import Size
from cytomask.truths.outlines import Outline, draw, measure, require_affordable

MOST_IMAGES = 20_000  # LIVECell has 5,239; each takes three AWS calls within an invocation's 180 s


class _Part(msgspec.Struct):
    """The file that `Coco.part` writes; `read_part` reads it like any COCO file."""

    images: list[Entry]
    annotations: list[Annotation]
    annotations_without_image: int
    prefix: str


@dataclass(frozen=True)
class Coco:
    """A COCO file in memory.

    Attributes:
        called: the file's name in errors.
        entries: the listed images by their whole names; an image that is listed twice has two entries.
        annotations: number of annotations.
        annotations_without_image: number of annotations of images that are not listed.
        unnamed: number of listed images without a file name.
        prefix: the file is meant for images whose address begins with this; a part takes it from the upload
            of the whole file.
    """

    called: str
    entries: dict[str, list[Entry]]
    by_image: dict[str, list[Annotation]]
    annotations: int
    annotations_without_image: int
    unnamed: int
    prefix: str = ""

    @property
    def images(self) -> int:
        """Number of images that it names; an image that is listed twice counts once."""
        return len(self.entries)

    @cached_property
    def by_base(self) -> dict[str, list[str]]:
        """The whole names of the images, by their base names."""
        found = defaultdict(list)
        for name in self.entries:
            found[names.base(name)].append(name)
        return dict(found)

    @cached_property
    def faults(self) -> dict[str, str]:
        """Listed images that cannot be drawn, each with its fault."""
        return {
            name: entry.fault for name, entries in self.entries.items() for entry in entries if entry.fault
        }

    @cached_property
    def unannotated(self) -> list[str]:
        """Images without annotations: their ground truth is an empty page."""
        return [
            name
            for name, entries in self.entries.items()
            if not any(self.by_image.get(entry.id) for entry in entries)
        ]

    def part(self, base: str, prefix: str = "") -> bytes:
        """Return a COCO file with the images of one base name and their annotations.

        Args:
            base: a key of `by_base`.
            prefix: the file is meant for images whose address begins with this.
        """
        entries = [entry for name in self.by_base[base] for entry in self.entries[name]]
        ids = dict.fromkeys(entry.id for entry in entries)
        annotations = [annotation for each in ids for annotation in self.by_image.get(each, [])]
        return msgspec.json.encode(_Part(entries, annotations, self.annotations_without_image, prefix))

    def assign(self, images: Mapping[str, Sequence[str]]) -> names.Assignment[str, str]:
        """Match images with entries, which are keys of `entries`.

        Args:
            images: all images that the file may describe: one address of each -> all its addresses.
        """
        return names.assign(
            {
                image: [name for uri in addresses for name in names.of_image(uri, self.prefix)]
                for image, addresses in images.items()
            },
            {name: [name] for name in self.entries},
        )

    def find(self, image: str, found: names.Assignment[str, str]) -> str:
        """Return the entry of an image, a key of `entries`.

        Args:
            image: the image's address, a key of `assign`'s argument.
            found: the assignment from `assign`.

        Raises:
            ImageNotNamed: the file does not name the image, or its name also fits another image or entry.
        """
        if image in found.truths:
            return found.truths[image]
        entries = ", ".join(found.doubtful.get(image, []))
        if not entries:
            raise ImageNotNamed(
                f"{self.called} does not name {image}; add it, or rename the image as its file_name says"
            )
        others = names.listed(
            other
            for other, several in found.doubtful.items()
            if other != image and several == found.doubtful[image]
        )
        raise ImageNotNamed(
            f"{self.called} names {entries}, which does not tell whether {image}"
            f"{' or ' + others if others else ''} is meant; write folders into its file names, or upload "
            "a file for each folder with `cytomask evaluate --images`"
        )

    def draw(self, name: str, sizes: Sequence[Size]) -> Mask:
        """Draw the ground truth of one image: every pixel inside an annotation of any category.

        An image that is listed more than once has the annotations of all its entries.

        Args:
            name: a key of `entries`.
            sizes: height and width of every page of the image.

        Returns:
            (H, W) bool.

        Raises:
            GroundTruthMismatch: the image has several pages, or another size than the file says.
            UnreadableCoco: an annotation cannot be drawn, or there is too much to draw.
            NothingDrawn: there are annotations, but no pixel is inside any.
        """
        entries = self.entries[name]
        for entry in entries:
            if entry.fault:
                raise UnreadableCoco(f"{self.called}: {entry.fault}")
        size = _require_size(entries, self.called, sizes)
        outlines = list(self._outlines(name))
        if not outlines and self.annotations_without_image:
            raise NothingDrawn(
                f"{self.called} has no annotation of {name}, and {self.annotations_without_image} "
                "annotations of images that it does not list; correct their `image_id`, or remove them"
            )
        require_affordable(outlines, size, f"{name} in {self.called}")
        cells = draw(outlines, size)
        if outlines and not cells.any():
            raise NothingDrawn(
                f"{self.called} has {len(outlines)} annotations of {name} and none covers a pixel of its "
                f"{size[1]} x {size[0]}; give coordinates in pixels of the image"
            )
        return cells

    def areas(self, name: str) -> list[int]:
        """Return the area of each annotation of an image in pixels; raises like `draw`."""
        size = _require_size(self.entries[name], self.called, [])
        outlines = list(self._outlines(name))
        require_affordable(outlines, size, f"{name} in {self.called}")
        return [measure(outline, size) for outline in outlines]

    def _outlines(self, name: str) -> Iterator[Outline]:
        entries = self.entries[name]
        of = f"{entries[0].file_name} in {self.called}"
        for image_id in dict.fromkeys(entry.id for entry in entries):
            for annotation in self.by_image.get(image_id, []):
                yield Outline(annotation.segmentation, annotation.id, of)


def read_coco(content: bytes, called: str) -> Coco:
    """Read a COCO file, except its outlines.

    Args:
        content: the file's bytes.
        called: the file's name in errors.

    Raises:
        UnreadableCoco: it is not JSON, has no usable image, or no annotation of any of its images.
    """
    coco = read_part(content, called)
    if not coco.entries and not coco.unnamed:
        raise UnreadableCoco(f"{called} lists no images; export it anew, with its images")
    if not coco.entries:
        raise UnreadableCoco(f"{called} has no image with a `file_name`; export it anew, with file names")
    if len(coco.faults) == len(coco.entries):
        raise UnreadableCoco(f"{called}: {next(iter(coco.faults.values()))}")
    if not coco.annotations:
        raise UnreadableCoco(
            f"{called} has no annotations at all, so it would make every image an empty page; export it anew "
            "with its annotations, or save a black mask for each page without cells"
        )
    if coco.annotations == coco.annotations_without_image:
        listed = names.listed({entry.id for entries in coco.entries.values() for entry in entries}, 3)
        raise UnreadableCoco(
            f"none of the {coco.annotations} annotations of {called} belongs to an image that it lists "
            f"(their `id`: {listed}); correct the annotations' `image_id`"
        )
    return coco


def require_few_images(coco: Coco) -> None:
    """Raise UnreadableCoco if the file lists more images than one invocation can index."""
    if coco.images > MOST_IMAGES:
        raise UnreadableCoco(
            f"{coco.called} lists {coco.images} images, the limit is {MOST_IMAGES}; split it into several"
        )


def read_part(content: bytes, called: str) -> Coco:
    """Read a file that `Coco.part` wrote; raise UnreadableCoco if it is not a COCO file."""
    file = decode(content, called)
    entries: dict[str, list[Entry]] = defaultdict(list)
    first: dict[str, Entry] = {}
    unnamed = 0
    for key, raw in values(file.images):
        entry = read_entry(raw, key)
        if entry is None:
            unnamed += 1
            continue
        known = first.setdefault(entry.id, entry)
        if entry.id and known.name != entry.name:
            fault = (
                f"the id {entry.id} belongs to {known.file_name} and to {entry.file_name}; export it anew, "
                "with an id for each image"
            )
            known.fault = entry.fault = fault
        entries[entry.name].append(entry)
    by_image: dict[str, list[Annotation]] = defaultdict(list)
    total = orphans = 0
    for _, raw in values(file.annotations):
        total += 1
        annotation = read_annotation(raw)
        image_id = id_text(annotation.image_id) if annotation else None
        if annotation and image_id in first:
            by_image[image_id].append(annotation)
        else:
            orphans += 1
    orphans = max(orphans, file.annotations_without_image)
    return Coco(called, dict(entries), dict(by_image), total, orphans, unnamed, file.prefix)


def _require_size(entries: Sequence[Entry], called: str, sizes: Sequence[Size]) -> Size:
    """Return the image's size; `sizes` is empty if the image itself was not read."""
    if len(sizes) > 1:
        raise GroundTruthMismatch(
            f"{called} describes one page of {entries[0].file_name} and the image has {len(sizes)}; "
            "upload a ground truth with a page for each"
        )
    own = (entries[0].height, entries[0].width)
    height, width = sizes[0] if sizes else own
    for entry in entries:
        if (entry.height, entry.width) != (height, width):
            raise GroundTruthMismatch(
                f"{called} says that {entry.file_name} is {entry.width} x {entry.height} pixels, and the "
                f"image is {width} x {height}; annotate the image in its own size"
            )
    return height, width
