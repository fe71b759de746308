"""Match ground truths with images by name.

Whole names are compared, with their folders. If folders differ, the longest common end decides. A base name
alone decides only if exactly one image and one ground truth have it.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, TypeVar
from urllib.parse import unquote

# Suffixes of files that the readers support. STK, LSM, BTF, TF2 and TF8 are TIFFs; JFIF and JPE are JPEGs.
IMAGE_SUFFIXES = frozenset(
    {"tif", "tiff", "stk", "lsm", "btf", "tf2", "tf8", "png", "jpg", "jpeg", "jpe", "jfif"}
)
MICROSCOPE_SUFFIXES = frozenset({"czi", "nd2", "lif"})  # read with the extra `microscopes`
APPLE_DOUBLE = "._"  # prefix of macOS's files for metadata that a disk's file system cannot store
CELLPOSE = "_seg.npy"  # ending of the files that Cellpose writes beside images
ZARR_FILES = frozenset({".zarray", ".zgroup", "zarr.json"})  # one of them is in every folder of Zarr
_MARK = r"[ ._-]+(?:masks?|labels?|segs?|segmentations?|gts?|ground[ ._-]?truths?|truths?|annotations?)$"
MARKS = (re.compile(rf"[ ._-]+cp{_MARK}", re.IGNORECASE), re.compile(_MARK, re.IGNORECASE))
# Label Studio's address of a file on its own disk has the path in a parameter.
LABEL_STUDIO = re.compile(r"(?:^|/)data/local-files/?\?(?:[^#]*&)?d=([^&#]+)")
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")

Image = TypeVar("Image", bound=Hashable)
Truth = TypeVar("Truth", bound=Hashable)


@dataclass(frozen=True)
class Assignment(Generic[Image, Truth]):
    """Which ground truth belongs to which image.

    Attributes:
        truths: the ground truth of each image that has one.
        doubtful: images whose name fits several ground truths, or whose ground truth also fits another image,
            each with these ground truths.
        lonely: images whose name fits no ground truth.
        unused: ground truths that belong to no image.
    """

    truths: Mapping[Image, Truth]
    doubtful: Mapping[Image, Sequence[Truth]]
    lonely: Sequence[Image]
    unused: Sequence[Truth]


def assign(
    images: Mapping[Image, Sequence[str]], truths: Mapping[Truth, Sequence[str]]
) -> Assignment[Image, Truth]:
    """Match images with ground truths by their names.

    Equal names match first, and may give one ground truth to several images (`a.png` and `a.tif`). The others
    match if each is the other's nearest by the longest common end of the paths, and no third is as near. If
    that end is only the base name, no other image or ground truth may have it, matched or not.

    Args:
        images: each image with its names as `clean` writes them, the likeliest first.
        truths: the same for ground truths.
    """
    found: dict[Image, Truth] = {}
    doubtful: dict[Image, Sequence[Truth]] = {}
    by_name: dict[str, list[tuple[int, Truth]]] = defaultdict(list)
    for truth, paths in truths.items():
        for rank, path in enumerate(paths):
            by_name[path].append((rank, truth))
    for image, paths in images.items():
        equal = [each for path in paths for each in by_name.get(path, [])]
        if equal:
            first = min(rank for rank, _ in equal)
            likeliest = list(dict.fromkeys(truth for rank, truth in equal if rank == first))
            if len(likeliest) == 1:
                found[image] = likeliest[0]
            else:
                doubtful[image] = likeliest
    taken = {*found.values(), *(truth for several in doubtful.values() for truth in several)}
    free_images = {image: paths for image, paths in images.items() if image not in found | doubtful}
    free_truths = {truth: paths for truth, paths in truths.items() if truth not in taken}
    nearest_truths = _nearest(free_images, free_truths)
    nearest_images = _nearest(free_truths, free_images)
    bases = Counter(base for paths in images.values() for base in _bases(paths))
    bases_of_truths = Counter(base for paths in truths.values() for base in _bases(paths))
    for image, near in nearest_truths.items():
        if len(near) == 1 and nearest_images[near[0]] == [image]:
            shared = _shared_end(images[image], truths[near[0]])
            if "/" in shared or bases[shared] == bases_of_truths[shared] == 1:
                found[image] = near[0]
        elif any(image in nearest_images[truth] for truth in near):
            doubtful[image] = near
    return Assignment(
        found,
        doubtful,
        [image for image in images if image not in found and image not in doubtful],
        [truth for truth in truths if truth not in taken and truth not in set(found.values())],
    )


def _nearest(
    wanting: Mapping[Image, Sequence[str]], offered: Mapping[Truth, Sequence[str]]
) -> dict[Image, list[Truth]]:
    """Find the nearest names on the other side, by the longest common end; leave out names without any."""
    by_end: dict[tuple[str, ...], dict[Truth, None]] = defaultdict(dict)
    for other, paths in offered.items():
        for path in paths:
            for end in _ends(path):
                by_end[end][other] = None
    nearest: dict[Image, list[Truth]] = {}
    for one, paths in wanting.items():
        ends = sorted({end for path in paths for end in _ends(path) if end in by_end}, key=len)
        if ends:
            longest = [end for end in ends if len(end) == len(ends[-1])]
            nearest[one] = list(dict.fromkeys(other for end in longest for other in by_end[end]))
    return nearest


def _bases(paths: Sequence[str]) -> set[str]:
    return {path.rpartition("/")[2] for path in paths}


def _shared_end(some: Sequence[str], others: Sequence[str]) -> str:
    """Return the longest common end of a path from each side."""
    ends = {end for path in some for end in _ends(path)}
    shared = [end for path in others for end in _ends(path) if end in ends]
    return "/".join(sorted(shared, key=len)[-1])


def _ends(path: str) -> Iterator[tuple[str, ...]]:
    parts = tuple(path.split("/"))
    return (parts[start:] for start in range(len(parts)))


@lru_cache(maxsize=4096)
def clean(name: str) -> str:
    """Return a path in one form, whichever tool wrote it.

    Folders are separated by `/`, percent-encoding is undone and Unicode is composed (NFC). The scheme of an
    address, `.`, `..` and empty parts are left out. Of Label Studio's
    `/data/local-files/?d=PATH`, only PATH counts. Use the form only to compare names: no file may have it.
    """
    scheme, local = SCHEME.match(name), LABEL_STUDIO.search(name)
    if local:
        name = local[1]
    elif scheme:
        name = name[scheme.end() :]
        if scheme[1].lower() in ("http", "https"):
            name = re.split("[?#]", name, maxsplit=1)[0]
    with suppress(UnicodeDecodeError):  # the name has a % that encodes nothing
        name = unquote(name, errors="strict")
    parts: list[str] = []
    for part in unicodedata.normalize("NFC", name).replace("\\", "/").split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def base(name: str) -> str:
    """Return the last part of a path in `clean`'s form; empty if the path has none."""
    return clean(name).rpartition("/")[2]


def is_image(name: str, suffixes: Set[str] = IMAGE_SUFFIXES | MICROSCOPE_SUFFIXES) -> bool:
    """Tell whether a name has the suffix of an image, by default one that the command can read."""
    head, _, suffix = name.rpartition(".")
    return bool(head) and suffix.lower() in suffixes


def is_zarr(folder: str, files: Iterable[str]) -> bool:
    """Tell whether a folder is of OME-Zarr, by its name and the names of the files in it."""
    return folder.lower().endswith(".zarr") or not ZARR_FILES.isdisjoint(files)


def image_stems(name: str) -> list[str]:
    """Return the names of this image that a mask's name may contain: its own, without its suffix."""
    return _stems(clean(name))


def _stems(path: str) -> list[str]:
    folder, slash, last = path.rpartition("/")
    head, _, suffix = last.rpartition(".")
    stems = [] if suffix.lower() in IMAGE_SUFFIXES and head else [path]
    stems += [f"{folder}{slash}{head}"] if head else []
    return list(dict.fromkeys([*stems, *map(_without_ome, stems)]))


def shortest_stem(path: str) -> str:
    """Return the last of an image's stems; its path is in `clean`'s form."""
    return _stems(path)[-1]


def shortest_stems_of(stem: str) -> list[str]:
    """Return every `shortest_stem` that an image with this stem may have."""
    folder, slash, last = stem.rpartition("/")
    head = last.rpartition(".")[0]
    whole = [stem, *([f"{folder}{slash}{head}"] if head else [])]
    return list(dict.fromkeys([*whole, *map(_without_ome, whole)]))


def truth_stems(name: str) -> list[str]:
    """Return the names of the images that a mask image may belong to, the likeliest first.

    `p/a_cp_masks.TIFF` may belong to `p/a_cp_masks`, `p/a` and `p/a_cp`, whatever their suffixes.
    """
    return _shortened(name, MARKS)


def masks_beside(names: Iterable[str]) -> dict[str, list[str]]:
    """Find the masks among some files: Cellpose's, and those whose mark, such as `_mask`, leads to an image.

    Returns:
        The stems of the images that each mask may belong to, the likeliest first.
    """
    all_names = list(names)
    known = {stem for name in all_names if is_image(name) for stem in image_stems(name)}
    marked = {name: _marked_stems(name) for name in all_names}
    return {
        name: stems
        for name, stems in marked.items()
        if name.endswith(CELLPOSE) or not known.isdisjoint(stems)
    }


def _marked_stems(name: str) -> list[str]:
    """Return the stems that a mask's name has without its mark."""
    if name.endswith(CELLPOSE):
        return [clean(name).removesuffix(CELLPOSE)]
    unmarked = _shortened(name, ())
    return [stem for stem in truth_stems(name) if stem not in unmarked]


def _shortened(name: str, marks: Sequence[re.Pattern[str]]) -> list[str]:
    """Return a path without its suffix, then without one mark after the other, `.ome` and inner suffixes."""
    stems = [_without_suffix(clean(name))]
    for stem in stems:  # the loop appends shorter and shorter names to the list
        folder, slash, last = stem.rpartition("/")
        shorter = [*(mark.sub("", last) for mark in marks), _without_ome(last), _without_suffix(last)]
        stems += [each for part in shorter if part and (each := f"{folder}{slash}{part}") not in stems]
    return list(dict.fromkeys(stems))


def _without_suffix(path: str) -> str:
    """Remove an image's suffix; any other ending is part of the name."""
    head, _, suffix = path.rpartition(".")
    return head if suffix.lower() in IMAGE_SUFFIXES and head and not head.endswith("/") else path


def _without_ome(stem: str) -> str:
    head = stem[:-4]
    return head if stem.lower().endswith(".ome") and head and not head.endswith("/") else stem


def group_same(images: Iterable[tuple[str, str | None]]) -> dict[str, list[str]]:
    """Group the addresses of images that are the same: one address, or one content under several.

    Args:
        images: address and content hash of each; None if the hash is unknown. An address may occur twice.

    Returns:
        Each address -> all addresses of its group.
    """
    groups: dict[str, list[str]] = {}
    by_content: dict[str, str] = {}
    for uri, content in images:
        own = groups.setdefault(uri, [uri])
        if content:
            other = groups[by_content.setdefault(content, uri)]
            if other is not own:
                own += other
                groups |= dict.fromkeys(own, own)
    return groups


def of_image(uri: str, prefix: str) -> list[str]:
    """Return the names that a COCO file may use for an image.

    Args:
        uri: the image's address, s3://bucket/key.
        prefix: the file is meant for images whose address begins with this; empty means all.
    """
    bucket, _, key = uri.partition("://")[2].partition("/")
    start = f"s3://{bucket}/"
    return relative(key, prefix.removeprefix(start) if prefix.startswith(start) else "")


def relative(key: str, prefix: str) -> list[str]:
    """Return an image's names as `clean` writes them: its key, and its key relative to a file's prefix.

    Args:
        key: key of the image.
        prefix: the beginning of the key, which may end within a name; empty for none.
    """
    folder = prefix.rpartition("/")[0]
    starts = [folder + "/" if folder else "", prefix if prefix.endswith("/") else prefix + "/"]
    below = [key[len(start) :] for start in starts if start.strip("/") and key.startswith(start)]
    return list(dict.fromkeys(clean(each) for each in [key, *below] if each))


def listed(names: Iterable[str], most: int = 20) -> str:
    """Join names for a sentence: at most `most` of them, and the number of the others."""
    all_names = sorted(names)
    more = f" and {len(all_names) - most} more" if len(all_names) > most else ""
    return ", ".join(all_names[:most]) + more
