"""The size of a pixel under a microscope. Apart from `images`, so that requests need no decoder."""

from dataclasses import dataclass

UM2_A_MM2 = 1_000_000
SMALLEST_PIXEL_UM, LARGEST_PIXEL_UM = 1e-3, 1e3  # no microscope's pixel is outside this range


@dataclass(frozen=True)
class PixelSize:
    """The width and height of a pixel, in micrometres."""

    width_um: float
    height_um: float

    @classmethod
    def chosen(cls, asked: tuple[float, float] | None, told: "PixelSize | None") -> "PixelSize | None":
        """Return the size that a request gives, as width and height, otherwise the file's own."""
        return cls(*asked) if asked else told

    @property
    def area_um2(self) -> float:
        """The area of a pixel in square micrometres."""
        return self.width_um * self.height_um
