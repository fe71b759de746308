"""The reference for every ratio: the network that cytomask replaces, in torch eager, in a plain server.

`python -m benchmarks.reference IMAGE MASK` squashes an image to 224x224 and stretches its mask back.
It shares no code with the serving path, so changes there do not affect it; its network uses our attention
blocks in torch. Its weights are random, so its masks mean nothing.
"""

import argparse
import io
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.reference_network import ReferenceNetwork

SIDE = 224
THRESHOLD = 0.5


class Reference:
    """The network in torch; 0 threads means torch's choice, one per core."""

    def __init__(self, threads: int = 0) -> None:
        """Make the network without loading weights, which would make the reference even slower."""
        if threads:
            torch.set_num_threads(threads)
        torch.manual_seed(0)
        self._network = ReferenceNetwork().eval()

    def segment(self, content: bytes) -> bytes:
        """Segment the bytes of a grey TIFF or PNG; return an 8-bit PNG of 0 and 255."""
        with Image.open(io.BytesIO(content)) as image:
            page = np.asarray(image)
        stream = io.BytesIO()
        Image.fromarray(self.mask(page).astype(np.uint8) * np.uint8(255)).save(stream, "PNG")
        return stream.getvalue()

    def mask(self, page: NDArray[np.generic]) -> NDArray[np.bool_]:
        """Segment one page: (H, W) of any real dtype to (H, W) bool."""
        pixels = page.astype(np.float32)
        pixels = (pixels - pixels.mean()) / max(float(pixels.std()), 1e-6)
        squashed = np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
        cells = Image.fromarray(self.probability(squashed) >= THRESHOLD)
        return np.asarray(cells.resize(page.shape[::-1], Image.Resampling.NEAREST))

    def probability(self, tile: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the network alone: a normalised (224, 224) tile to probabilities 0..1."""
        with torch.inference_mode():
            logits = self._network(torch.tensor(tile)[None, None])
            probability: NDArray[np.float32] = torch.sigmoid(logits)[0, 0].numpy()
        return probability


def main() -> None:
    """Segment one file."""
    parser = argparse.ArgumentParser(description="Segment one image as the reference path does.")
    parser.add_argument("image", type=Path)
    parser.add_argument("mask", type=Path)
    parsed = parser.parse_args()
    parsed.mask.write_bytes(Reference().segment(parsed.image.read_bytes()))


if __name__ == "__main__":
    main()
