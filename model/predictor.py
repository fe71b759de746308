"""Turn a page of pixels into a mask of living cells, with the exported networks in ONNX Runtime."""

import hashlib
import math
import os
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from cytomask.model import preprocess, quality
from cytomask.model.preprocess import Blend, Pixels, TilePlan
from cytomask.model.quality import Flag

Mode = Literal["native", "resize"]
MODES: tuple[Mode, ...] = get_args(Mode)
# A network: (N, 1, side, side) float32 tiles to their logits, of the same shape. N is 1 in `resize` mode.
Infer = Callable[[Pixels], Pixels]
Clean = Callable[[NDArray[np.bool_]], NDArray[np.bool_]]  # turns a mask, (H, W), into a cleaned one

TILES_AT_ONCE = 18  # 6 MB before the network and 6 MB after it
WEIGHTS = Path(__file__).parent / "weights"
MANIFEST = "manifest.json"
RENEW = "copy the model's whole folder again, or make the model again"


class WeightsError(Exception):
    """The weights are missing or differ from their manifest, so nothing may be served."""


class Ancestor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Weights that other weights began from.

    Attributes:
        name: name of the model or of the training run.
        sha256: sha256 of its weights file, in hex.
        training_data: what it was trained on.
        licence: licence of the weights; empty if they were never exported.
    """

    name: str
    sha256: str
    training_data: list[str]
    licence: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known about an exported network. `cytomask.model.export` writes it; the predictor reads it.

    Attributes:
        mode: the mode it was trained for.
        file: name of the ONNX file beside the manifest.
        sha256: sha256 of that file, in hex.
        parameters: number of trained parameters.
        threshold: default probability at or above which a pixel is cell, 0..1.
        training: the experiment's configuration.
        training_data, licence: the sources, and the licence of the weights that follows from them.
        scores: mean IoU by name of the data set, each with its number of images.
        lineage: the weights that these began from, oldest first; empty if they began from random numbers.
        known_pages: `quality.describe` of each page that the weights were fine-tuned on.
        learned_pages: `page_hash` of each page that they, or weights that they began from, learned from.
            Scores on these pages say nothing about other pages.
    """

    name: str
    mode: Mode
    file: str
    sha256: str
    parameters: int
    architecture: dict[str, Any]
    normalisation: str
    tile: int
    overlap: int
    threshold: float
    training: dict[str, Any]
    training_data: list[str]
    licence: str
    scores: dict[str, Any]
    lineage: list[Ancestor] = []
    known_pages: list[list[float]] = []
    learned_pages: list[str] = []


def page_hash(pixels: NDArray[np.generic]) -> str:
    """Return 16 hex digits that tell pages apart by their pixels: (H, W), any real dtype, any byte order."""
    native = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("="))
    return hashlib.sha256(native.data).hexdigest()[:16]


@dataclass(frozen=True)
class Prediction:
    """The network's prediction for one page.

    Attributes:
        logits: (H, W) float32; -inf everywhere if the page is constant.
        mask: (H, W) bool, True where the probability reaches the threshold.
        plan: the tiles it was made from; None in `resize` mode.
        quality: flags that warn against trusting the mask.
        clean: the function that cleaned the mask after the network; None if none did.
    """

    logits: Pixels
    mask: NDArray[np.bool_]
    plan: TilePlan | None
    quality: tuple[Flag, ...] = ()
    clean: Clean | None = None

    def cleaned(self, clean: Clean) -> "Prediction":
        """Return the prediction with a cleaned mask; its confluences are those of cleaned masks."""
        return replace(self, mask=clean(self.mask), clean=clean)

    @property
    def confluence(self) -> float:
        """Share of the page that is cell, 0..1."""
        return self._confluence(self.mask)

    @property
    def confluence_low(self) -> float:
        """Confluence at a probability of 0.7, or at a higher threshold: the area that is surely cell."""
        return self._confluence(self.mask & self._mask_at(0.7))

    @property
    def confluence_high(self) -> float:
        """Confluence at a probability of 0.3, or at a lower threshold: the area that may be cell."""
        return self._confluence(self.mask | self._mask_at(0.3))

    def _mask_at(self, probability: float) -> NDArray[np.bool_]:
        mask = self.logits >= logit(probability)
        return self.clean(mask) if self.clean else mask

    @staticmethod
    def _confluence(mask: NDArray[np.bool_]) -> float:
        return float(np.count_nonzero(mask) / mask.size)

    @property
    def probability(self) -> Pixels:
        """(H, W) float32 in 0..1."""
        return probability_of(self.logits)


class Predictor:
    """The exported networks, one for each mode, loaded once; safe to share between threads.

    A squashed page shows its cells at a third of their size. A network trained on such cells finds more of
    their borders than one network for both modes (model/weights/MODEL_CARD.md).

    Args:
        weights: a model's folder, with its manifest; or a folder that holds such a folder for each mode.
        threads: number of threads; 0 for one per core.
        modes: which networks to load; None for all that the folder has.

    Raises:
        WeightsError: a manifest is missing, cannot be read, or needs a normalisation that this code lacks.
        ValueError: an argument is not as described.
    """

    def __init__(
        self,
        weights: str | os.PathLike[str] = WEIGHTS,
        threads: int = 0,
        modes: Sequence[Mode] | None = None,
    ) -> None:
        """Start loading the networks."""
        if isinstance(threads, bool) or not isinstance(threads, int | np.integer) or threads < 0:
            raise ValueError(f"threads must be a positive number, or 0 for one per core, not {threads!r}")
        if not isinstance(weights, str | os.PathLike):
            raise ValueError(f"weights must be the folder of a model, not {weights!r}")
        if modes is not None and (
            isinstance(modes, str)
            or not isinstance(modes, Collection)
            or not modes
            or any(each not in MODES for each in modes)
        ):
            raise ValueError(f"modes must be a list of 'native', 'resize' or both, not {modes!r}")
        weights = Path(weights)
        self.manifests = read_manifests(weights, modes or modes_of(weights))
        # This thread loads the networks. Later it measures each page while the network works on it, because
        # the network leaves cores idle.
        self._beside = ThreadPoolExecutor(1)
        self._networks = {
            mode: self._beside.submit(load_network, network_folder(weights, mode), manifest, int(threads))
            for mode, manifest in self.manifests.items()
        }

    def wait(self) -> None:
        """Wait until all networks are loaded; raise WeightsError if one is missing or fails its manifest."""
        for network in self._networks.values():
            network.result()

    def predict(
        self, page: NDArray[np.generic], mode: Mode = "native", threshold: float | None = None
    ) -> Prediction:
        """Segment one page, (H, W) of any real dtype and finite values, and check its quality.

        Args:
            page: grey values as the microscope wrote them.
            mode: `native` for overlapping tiles at full resolution, `resize` for one squashed tile.
            threshold: probability, 0..1; None means the model's own.

        Raises:
            WeightsError: as `wait` does.
            ValueError: the page or the threshold is not as described, or the network for this mode was not
                loaded.
        """
        if mode not in MODES:
            raise ValueError(f"mode must be 'native' or 'resize', not {mode!r}")
        if mode not in self._networks:
            loaded = " and ".join(self._networks)
            raise ValueError(
                f"this predictor has only the network for {loaded}, not for {mode}; load weights for it"
            )
        if threshold is not None and not (isinstance(threshold, Real) and 0 <= threshold <= 1):
            raise ValueError(f"threshold must be a number between 0 and 1, not {threshold!r}")
        page = require_page(page)
        infer, manifest = self._networks[mode].result(), self.manifests[mode]
        normalised = preprocess.normalise(page)
        appearance = self._beside.submit(quality.look_at, page, normalised, manifest.known_pages)
        if not normalised.any():
            logits = np.full(page.shape, -np.inf, np.float32)
        else:
            logits = logits_of_page(normalised, mode, infer)
        cut = logit(manifest.threshold if threshold is None else threshold)
        plan = preprocess.plan_tiles(*page.shape) if mode == "native" else None
        flags = quality.check(appearance.result(), logits, squashed=mode == "resize")
        return Prediction(logits, logits >= cut, plan, flags)


def require_page(page: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return a page that can be segmented: (H, W) of a real dtype that float64 can hold, finite values.

    Raises:
        ValueError: it has another shape or dtype, no pixels, masked pixels, or NaN or infinite values.
    """
    if np.ma.is_masked(page):
        raise ValueError("image has masked values; give each a value, as in image.filled(0)")
    page = np.asarray(page)
    if page.ndim != 2:
        hint = "pass one page at a time, as in image[0]" if page.ndim > 2 else "pass a whole page"
        if page.ndim == 3 and page.shape[-1] in (3, 4):
            hint = "choose one channel, as in image[..., 0], or pass the file's path to use its luma"
        raise ValueError(f"image must have shape (height, width), not {page.shape}; {hint}")
    if page.size == 0:
        raise ValueError(f"image has no pixels: its shape is {page.shape}")
    if page.dtype.kind not in "uif":
        raise ValueError(f"image must hold integers or floats, not {page.dtype}")
    if page.dtype.kind == "f":
        if page.dtype.itemsize > np.dtype(np.float64).itemsize:
            with np.errstate(over="ignore"):
                page = page.astype(np.float64)
        if not np.isfinite(page).all():
            raise ValueError("image holds NaN or infinite values; replace them, as with np.nan_to_num")
    return page


def load_network(folder: Path, manifest: Manifest, threads: int = 0) -> Infer:
    """Load the network of a folder; raise WeightsError if it does not match the manifest."""
    return open_network(check_weights(folder, manifest), manifest.mode, threads)


def open_network(network: Path, mode: Mode, threads: int = 0) -> Infer:
    """Open an ONNX file as a function; 0 threads means one per core.

    In `native` mode each thread works on its own tiles. Sharing each tile would be slower, because the
    steps of a tile are short. In `resize` mode the threads share the only tile.

    Raises:
        WeightsError: the file is not ONNX, or its network does not turn tiles into tiles.
    """
    threads = threads or cores()
    session = open_session(network, threads if mode == "resize" else 1)
    _require_tiles(session, network, tile_side(mode))

    def infer_tile(tile: Pixels) -> Pixels:
        logits: Pixels = session.run(None, {"image": tile})[0]
        return logits

    if mode == "resize":
        return infer_tile
    pool = ThreadPoolExecutor(threads)

    def infer_tiles(tiles: Pixels) -> Pixels:
        return np.concatenate(list(pool.map(infer_tile, np.split(tiles, len(tiles)))))

    return infer_tiles


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def open_session(network: Path, threads: int) -> Any:
    """Open an ONNX file as a session of ONNX Runtime; raise WeightsError if it cannot be run."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    # If there are fewer cores than threads, spinning threads take time from the others.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Both keep all memory that they ever used. Without them and with one tile at a time, a page leaves 140 MB
    # instead of 425 MB.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    try:
        # Pass the path: given bytes, the session would keep a copy of them.
        return onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own classes have no base of their own
        raise WeightsError(f"{network} cannot be run: {str(error)[:300]}; {RENEW}") from error


def tile_side(mode: Mode) -> int:
    """Return the side of a mode's tiles, in pixels."""
    return preprocess.TILE if mode == "native" else preprocess.SQUARE


def _require_tiles(session: Any, network: Path, side: int) -> None:
    """Raise WeightsError unless a network turns one tile `image` of this side into one of the same shape."""
    tile = [1, side, side]
    inputs, outputs = session.get_inputs(), session.get_outputs()
    shapes = [(each.type, each.shape[1:]) for each in (*inputs, *outputs)]
    if [each.name for each in inputs] != ["image"] or shapes != [("tensor(float)", tile)] * 2:
        found = ", ".join(f"{each.name} {each.type} {each.shape}" for each in (*inputs, *outputs))
        raise WeightsError(
            f"{network} has another architecture: its inputs and outputs are {found}; this code needs a "
            f"network that turns `image`, float tiles of shape {tile}, into one output of their shape"
        )


def logits_of_page(normalised: Pixels, mode: Mode, infer: Infer, overlap: int = preprocess.OVERLAP) -> Pixels:
    """Compute the logits of a whole page, with any network.

    Args:
        normalised: (H, W) float32, as `preprocess.normalise` returns it.
        mode: as in `Predictor.predict`.
        infer: the network.
        overlap: least overlap of neighbouring tiles, in pixels.

    Returns:
        (H, W) float32.
    """
    if mode == "resize":
        tile = preprocess.resize(normalised, preprocess.SQUARE, preprocess.SQUARE)
        return preprocess.resize(infer(tile[None, None])[0, 0], *normalised.shape)
    height, width = normalised.shape
    plan = preprocess.plan_tiles(height, width, overlap=overlap)
    blend = Blend(plan)
    for places in plan.batches(TILES_AT_ONCE):
        blend.add_tiles(infer(preprocess.cut_tiles(normalised, plan, places)), places)
    return blend.result()


def probability_of(logits: Pixels) -> Pixels:
    """Turn logits into probabilities in 0..1: (H, W) float32 in and out."""
    with np.errstate(over="ignore"):
        return np.float32(1) / (np.float32(1) + np.exp(-logits))


def logit(probability: float) -> float:
    """Return the logit of a probability, infinite at 0 and 1."""
    if probability <= 0:
        return -math.inf
    if probability >= 1:
        return math.inf
    return math.log(probability / (1 - probability))


def served_modes(weights: Path) -> list[Mode]:
    """Return the modes that a folder of weights has networks for."""
    return [mode for mode in MODES if (weights / mode / MANIFEST).exists()]


def modes_of(weights: Path) -> list[Mode]:
    """Return the modes that a folder of weights is for; raise WeightsError if its manifest cannot be read."""
    below = [mode for mode in MODES if (weights / mode).is_dir()]
    if below or not (weights / MANIFEST).exists():
        return below or list(MODES)
    return [_decode(weights / MANIFEST).mode]


def read_manifests(weights: Path, modes: Sequence[Mode] = MODES) -> dict[Mode, Manifest]:
    """Read the manifests of a folder of weights; raise WeightsError if one cannot be served."""
    return {mode: read_manifest(network_folder(weights, mode), mode) for mode in modes}


def network_folder(weights: Path, mode: Mode) -> Path:
    """Return the folder of a mode's network: a subfolder of the weights, or the folder itself."""
    below = weights / mode
    return weights if not below.exists() and (weights / MANIFEST).exists() else below


def read_manifest(folder: Path, mode: Mode) -> Manifest:
    """Read the manifest of a network for a mode; raise WeightsError if it cannot be served."""
    path = folder / MANIFEST
    manifest = _decode(path)
    if manifest.mode != mode:
        raise WeightsError(
            f"{path} describes a network for {manifest.mode}, not for {mode}; use it for {manifest.mode}"
        )
    expected = (preprocess.NORMALISATION, tile_side(mode), preprocess.OVERLAP)
    found = (manifest.normalisation, manifest.tile, manifest.overlap)
    if found != expected:
        raise WeightsError(
            f"the weights in {folder} are from another version of cytomask: their normalisation, tile and "
            f"overlap are {found}, and this version needs {expected}; run `cytomask finetune` again with "
            "this version, or use the version that made them"
        )
    return manifest


def _decode(path: Path) -> Manifest:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except OSError as error:
        raise WeightsError(_absent(path, error)) from None
    except ValueError as error:  # not JSON, not UTF-8, or not the fields of a manifest
        raise WeightsError(f"{path} is not a manifest: {error}; {RENEW}") from error


def check_weights(folder: Path, manifest: Manifest) -> Path:
    """Return the ONNX file of a manifest; raise WeightsError if it is missing or has another sha256."""
    path = folder / manifest.file
    try:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise WeightsError(_absent(path, error)) from None
    if sha256 != manifest.sha256:
        raise WeightsError(f"{path} has sha256 {sha256} but its manifest says {manifest.sha256}; {RENEW}")
    return path


def _absent(path: Path, error: OSError) -> str:
    return f"no weights to serve, {path}: {error.strerror}; give a model's folder, or {RENEW}"
