"""Pages are the right directories of a TIFF, each read by its own tags."""

import io
import struct
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from image_files import HEIGHT, WIDTH, headers, luma_of, noise, plain_tiff, planes, read, same, tiff_of_writes
from numpy.typing import NDArray
from tiffs import tiff

from cytomask import images
from cytomask.errors import AmbiguousChannels, RejectedInput, UnreadableImage
from cytomask.samples.plates import growing_fields

SMALL = (6, 9)
REDUCED, PAGE, MASK = 1, 2, 4
GREY, WHITE_IS_ZERO = "minisblack", "miniswhite"


def small(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Make different pages: (count, 6, 9) uint8."""
    return noise(count, *SMALL, seed=seed)


def flagged(flags: list[int]) -> tuple[bytes, NDArray[np.uint8]]:
    """Write a TIFF whose pages have these values of NewSubfileType; return it and its pages."""
    stack = small(len(flags))
    writes: list[tuple[NDArray[Any], dict[str, Any]]] = [
        (page, {"metadata": None, "contiguous": False, "extratags": [(254, 4, 1, flag, False)]})
        for page, flag in zip(stack, flags, strict=True)
    ]
    return tiff_of_writes(*writes), stack


def without_tag(data: bytes, unwanted: int) -> bytes:
    """Write a little-endian TIFF of one page, with one tag renamed to an unknown one."""
    changed = bytearray(data)
    place = struct.unpack_from("<I", data, 4)[0]
    for number in range(struct.unpack_from("<H", data, place)[0]):
        at = place + 2 + 12 * number
        if struct.unpack_from("<H", data, at)[0] == unwanted:
            struct.pack_into("<H", changed, at, 65_000)
    return bytes(changed)


@pytest.mark.parametrize("name", ["slide.vsi", "slide.MRXS", "photo.dng", "photo.NEF"])
def test_a_file_that_holds_only_a_preview_is_refused_by_its_name(name: str) -> None:
    data = tiff(small(1)[0])
    with (
        pytest.raises(
            UnreadableImage, match=f"{name} holds only a preview; its picture .*: export it as TIFF"
        ),
        images.open_image(data, f"plate 1/{name}"),
    ):
        pass


@given(st.lists(st.integers(0, 7), min_size=1, max_size=6))
def test_copies_and_masks_are_pages_only_if_the_file_has_nothing_else(flags: list[int]) -> None:
    data, stack = flagged(flags)
    own = [at for at, flag in enumerate(flags) if not flag & (REDUCED | MASK)]
    copies = [at for at, flag in enumerate(flags) if not flag & MASK]
    expected = own or copies or list(range(len(flags)))
    assert same(read(data), stack[expected])


def test_the_largest_copies_are_pages_if_a_file_has_only_copies() -> None:
    page = planes()
    copy: dict[str, Any] = {"subfiletype": REDUCED, "metadata": None}
    data = tiff_of_writes((page[::2, ::2], copy), (page, copy), (page[::4, ::4], copy))
    assert same(read(data), page[None])


def test_a_copy_flagged_by_the_older_tag_is_not_a_page() -> None:
    page = planes()
    old = {"extratags": [(255, 3, 1, 2, False)], "metadata": None}
    assert same(read(tiff_of_writes((page, {"metadata": None}), (page[::2, ::2], old))), page[None])


def test_an_unflagged_transparency_mask_is_not_a_page() -> None:
    page = planes()
    mask: dict[str, Any] = {"photometric": "mask", "metadata": None}
    assert same(read(tiff_of_writes((page, {"metadata": None}), (page > 99, mask))), page[None])


def test_a_raw_file_whose_pages_are_previews_is_refused() -> None:
    page = planes()
    data = tiff_of_writes(
        (page[::4, ::4], {"subifds": 1, "subfiletype": REDUCED, "metadata": None}), (page, {"metadata": None})
    )
    with pytest.raises(UnreadableImage, match="camera's raw file"):
        read(data)


@given(
    st.lists(st.sampled_from([GREY, WHITE_IS_ZERO, "palette"]), min_size=1, max_size=5),
    st.integers(0, 2**32 - 1),
)
def test_each_page_is_read_by_its_own_photometric_and_palette(kinds: list[str], seed: int) -> None:
    chance = np.random.default_rng(seed)
    stack = small(len(kinds), seed)
    expected, writes = [], []
    for page, kind in zip(stack, kinds, strict=True):
        options: dict[str, Any] = {"metadata": None, "contiguous": False, "photometric": kind}
        shown: NDArray[Any] = 255 - page if kind == WHITE_IS_ZERO else page
        if kind == "palette":
            options["colormap"] = chance.integers(0, 65_536, (3, 256), np.uint16)
            shown = luma_of(np.moveaxis(options["colormap"][:, page], 0, -1))
        writes.append((page, options))
        expected.append(shown)
    data = tiff_of_writes(*writes)
    for found, shown in zip(read(data), expected, strict=True):
        np.testing.assert_allclose(found, shown, rtol=1e-5)
    with images.open_image(data) as image:
        for page, stored in zip(images.read_stored(image), stack, strict=True):
            assert np.array_equal(page.values, stored)
            assert page.alpha is None


@pytest.mark.parametrize("writer", [{"imagej": True}, {"ome": True}, {}], ids=str)
def test_a_described_white_is_zero_stack_is_inverted(writer: dict[str, Any]) -> None:
    stack = planes(3)
    data = tiff(stack, writer=writer, photometric=WHITE_IS_ZERO, metadata={"axes": "TYX"})
    assert same(read(data), 255 - stack)


def test_a_page_without_photometric_is_read_as_in_libtiff() -> None:
    page, rgb = small(1)[0], noise(*SMALL, 3)
    assert same(read(without_tag(plain_tiff(page), 262)), page[None])
    [found] = read(without_tag(plain_tiff(rgb, photometric="rgb"), 262))
    np.testing.assert_allclose(found, luma_of(rgb), atol=1e-3)


@given(st.integers(1, 8))
def test_a_tiffs_orientation_is_reported_and_its_pixels_are_unchanged(orientation: int) -> None:
    page = small(1)[0]
    data = plain_tiff(page, extratags=[(274, 3, 1, orientation, True)])
    [header] = headers(data)
    assert (header.orientation, header.turned, header.height, header.width) == (orientation, False, *SMALL)
    with images.open_image(data) as image:
        [found] = images.read_pages(image)
    assert np.array_equal(found.pixels, page)
    assert (found.orientation, found.turned) == (orientation, False)


@pytest.mark.parametrize("count", [2, 3, 4, 5])
@pytest.mark.parametrize("axes", ["TYX", "ZYX"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_frames_mistaken_for_colours_are_pages_if_their_axis_is_named(
    count: int, axes: str, compression: str | None
) -> None:
    stack = planes(count)
    assert same(read(written_by_default(stack, metadata={"axes": axes}, compression=compression)), stack)


@pytest.mark.parametrize("count", [3, 4])
def test_frames_mistaken_for_colours_are_refused_without_a_named_axis(count: int) -> None:
    stack = planes(count)
    for data in (written_by_default(stack), written_by_default(stack, metadata=None)):
        with pytest.raises(AmbiguousChannels, match=f"{count} channels.*calls planes that lie apart red"):
            read(data)
        assert same(read(data, channel=count - 1), stack[-1:])


def written_by_default(stack: NDArray[Any], **options: Any) -> bytes:
    """Write a stack like `tifffile.imwrite(path, stack)`: three or four planes become colours."""
    stream = io.BytesIO()
    tifffile.imwrite(stream, stack, **options)
    return stream.getvalue()


def blobs(seed: int) -> NDArray[np.uint8]:
    """Make a picture with structure: (48, 64) uint8."""
    coarse = noise(HEIGHT // 8, WIDTH // 8, seed=seed)
    return np.kron(coarse, np.ones((8, 8), np.uint8))


@given(st.integers(0, 2**31), st.integers(0, 20))
def test_frames_saved_as_interleaved_colours_are_refused_unlike_colours(seed: int, noise_level: int) -> None:
    frames = np.stack([blobs(seed + at) for at in range(3)], axis=-1)  # H, W, 3
    with pytest.raises(AmbiguousChannels, match="differ as different pictures do"):
        read(plain_tiff(frames, photometric="rgb"))
    shot = np.random.default_rng(seed).integers(0, noise_level + 1, (HEIGHT, WIDTH, 3))
    tinted = (blobs(seed)[..., None] * np.array([0.9, 0.7, 0.5]) + 10 + shot).astype(np.uint8)
    [found] = read(plain_tiff(tinted, photometric="rgb"))
    np.testing.assert_allclose(found, luma_of(tinted), atol=1e-3)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shares", [(0.10, 0.12, 0.14), (0.3, 0.35, 0.4), (0.8, 0.82, 0.84)])
def test_frames_of_growing_cells_saved_as_colours_are_refused(seed: int, shares: tuple[float, ...]) -> None:
    frames = np.stack([field.pixels for field in growing_fields(seed, shares)], axis=-1)  # H, W, 3
    with pytest.raises(
        AmbiguousChannels, match=r"as different pictures do \(correlation 0\.\d+, at one bright"
    ):
        read(plain_tiff(frames, photometric="rgb"))


@pytest.mark.parametrize("noise_level", [0, 2, 5, 10, 20])
@pytest.mark.parametrize("contrast", [0.3, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_grey_picture_of_a_noisy_colour_camera_is_read(
    seed: int, contrast: float, noise_level: float
) -> None:
    rng = np.random.default_rng(seed)
    [field] = growing_fields(seed, [0.3])
    scene = 120 + contrast * 25 * (
        field.pixels / field.pixels.std() - field.pixels.mean() / field.pixels.std()
    )
    shots = scene[..., None] + rng.normal(0, noise_level, (*scene.shape, 3))
    colours = np.clip(shots, 0, 255).astype(np.uint8)  # H, W, 3
    [found] = read(plain_tiff(colours, photometric="rgb"))
    np.testing.assert_allclose(found, luma_of(colours), atol=1e-3)


@pytest.mark.parametrize("stain", [(0.3, 0.5, 0.2), (0.6, 0.3, 0.05)])
def test_stained_sections_are_read(stain: tuple[float, ...]) -> None:
    """Two stains in different places, so that the colours differ in where they are dark."""
    one, other = [
        field.pixels.astype(float) for field in (*growing_fields(1, [0.3]), *growing_fields(3, [0.3]))
    ]
    amounts = [np.clip((each - each.mean()) / each.std(), 0, 4) for each in (one, other)]
    density = amounts[0][..., None] * np.array(stain) + amounts[1][..., None] * np.array([0.1, 0.4, 0.1])
    colours = (240 * np.exp(-density)).astype(np.uint8)
    [found] = read(plain_tiff(colours, photometric="rgb"))
    np.testing.assert_allclose(found, luma_of(colours), atol=1e-3)


def test_a_page_says_that_it_was_joined_from_colours() -> None:
    grey = blobs(1)
    tinted = (grey[..., None] * np.array([0.9, 0.7, 0.5]) + 10).astype(np.uint8)
    for data, channel, luma in (
        (plain_tiff(tinted, photometric="rgb"), None, True),
        (plain_tiff(tinted, photometric="rgb"), 1, False),
        (plain_tiff(grey), None, False),
    ):
        with images.open_image(data) as image:
            [found] = images.read_pages(image, channel=channel)
        assert found.luma is luma


def test_inks_and_mosaics_are_refused_by_name() -> None:
    inks = plain_tiff(noise(*SMALL, 4), photometric="separated")
    mosaic = plain_tiff(small(1)[0], photometric="cfa", extratags=[(33421, 3, 2, (2, 2), True)])
    for data, said in ((inks, "inks"), (mosaic, "mosaic")):
        with pytest.raises(UnreadableImage, match=said):
            read(data)


@given(st.integers(0, 2**32 - 1), st.sampled_from([256, 257, 258, 262, 273, 274, 277, 278, 279, 320, 338]))
def test_any_tag_value_yields_pages_or_a_refusal(value: int, tag: int) -> None:
    data = bytearray(plain_tiff(small(1)[0], extratags=[(274, 3, 1, 1, True)]))
    place = struct.unpack_from("<I", data, 4)[0]
    for number in range(struct.unpack_from("<H", data, place)[0]):
        at = place + 2 + 12 * number
        if struct.unpack_from("<H", data, at)[0] == tag:
            struct.pack_into("<I", data, at + 8, value)
    try:
        read(bytes(data))
    except RejectedInput as error:
        assert str(error)
