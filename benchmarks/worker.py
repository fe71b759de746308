"""Run one way from an image to its mask in its own process: `python -m benchmarks.worker WAY IMAGE THREADS`.

It prints a JSON line when the first image is done. Then it reads numbers of images from standard input, runs
that many, and prints a line for each. It idles in between, so that processes can take turns.
"""

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cytomask.model.predictor import Mode

WEIGHTS = Path(__file__).parents[1] / "model" / "weights"
NETWORKS = {mode: WEIGHTS / mode / "swin_unet.onnx" for mode in ("native", "resize")}
SIDES = {"native": 288, "resize": 224}  # of a tile, in pixels
TILES = {"native": 6, "resize": 1}  # of a page of 704x520
OPSET = 20
SQUARE = (2048, 2048)

Run = Callable[[int], list[float]]
# Yields None after its imports. Once loaded, yields a function that runs a number of images.
Way = Iterator[Run | None]


def reference(image: Path, threads: int) -> Way:
    """Run the reference."""
    from benchmarks.reference import Reference  # noqa: PLC0415  # imports are measured

    yield None
    server, content = Reference(threads), image.read_bytes()
    yield lambda count: one_by_one(lambda: server.segment(content), count)


def resize(image: Path, threads: int) -> Way:
    """Run the serving path with one squashed tile."""
    yield from _served(image, threads, "resize")


def native(image: Path, threads: int) -> Way:
    """Run the serving path with overlapping tiles."""
    yield from _served(image, threads, "native")


def _served(image: Path, threads: int, mode: "Mode") -> Way:
    from cytomask import images  # noqa: PLC0415
    from cytomask.model.predictor import Predictor  # noqa: PLC0415

    yield None
    predictor, content = Predictor(threads=threads, modes=[mode]), image.read_bytes()
    predictor.wait()

    def segment() -> None:
        with images.open_image(content) as opened:
            for page in images.read_pages(opened):
                images.encode_mask(predictor.predict(page.pixels, mode).mask)

    yield lambda count: one_by_one(segment, count)


def resize_side_by_side(image: Path, threads: int) -> Way:
    """Run the serving path with one image per thread, as `cytomask segment` does."""
    (_, run) = resize(image, threads)
    yield None
    assert run is not None
    with ThreadPoolExecutor(threads) as pool:
        yield lambda count: [ms for spent in pool.map(run, [1] * count) for ms in spent]


def tile_torch(_: Path, threads: int) -> Way:
    """Run the network alone in torch eager."""
    import torch  # noqa: PLC0415

    from cytomask.model.export import load_checkpoint  # noqa: PLC0415

    yield None
    torch.set_num_threads(threads)
    network, tile = (
        load_checkpoint(NETWORKS["native"].with_suffix(".safetensors")),
        torch.zeros(1, 1, SIDES["native"], SIDES["native"]),
    )
    with torch.inference_mode():
        yield lambda count: one_by_one(lambda: network(tile), count)


def tile_onnxruntime(_: Path, threads: int) -> Way:
    """Run the `native` network alone in ONNX Runtime, with all threads on one tile."""
    import numpy as np  # noqa: PLC0415

    from cytomask.model.predictor import open_session  # noqa: PLC0415

    yield None
    session, side = open_session(NETWORKS["native"], threads), SIDES["native"]
    tile = np.zeros((1, 1, side, side), np.float32)
    yield lambda count: one_by_one(lambda: session.run(None, {"image": tile}), count)


def tiles_native(_: Path, threads: int) -> Way:
    """Run the `native` network alone on a page's tiles in one call, one thread per tile."""
    yield from _tiles("native", threads)


def tiles_resize(_: Path, threads: int) -> Way:
    """Run the `resize` network alone on its one tile."""
    yield from _tiles("resize", threads)


def _tiles(mode: "Mode", threads: int) -> Way:
    import numpy as np  # noqa: PLC0415

    from cytomask.model.predictor import open_network  # noqa: PLC0415

    yield None
    infer = open_network(NETWORKS[mode], mode, threads)
    tiles = np.zeros((TILES[mode], 1, SIDES[mode], SIDES[mode]), np.float32)
    yield lambda count: one_by_one(lambda: infer(tiles), count)


def tile_openvino(_: Path, threads: int) -> Way:
    """Run the network alone in OpenVINO, from the same ONNX file."""
    import numpy as np  # noqa: PLC0415
    import openvino  # noqa: PLC0415

    yield None
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    settings["INFERENCE_PRECISION_HINT"] = "f32"
    network = openvino.Core().compile_model(NETWORKS["native"], "CPU", settings)
    tile = np.zeros((1, 1, SIDES["native"], SIDES["native"]), np.float32)
    yield lambda count: one_by_one(lambda: network([tile]), count)


def product(_: Path, threads: int) -> Way:
    """Multiply two 2048x2048 float32 matrices in ONNX Runtime, which has the fastest kernels here."""
    import numpy as np  # noqa: PLC0415
    import onnx  # noqa: PLC0415

    from cytomask.model.predictor import open_session  # noqa: PLC0415

    yield None
    matrices = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, SQUARE) for name in "abc"]
    node = onnx.helper.make_node("MatMul", ["a", "b"], ["c"])
    graph = onnx.helper.make_graph([node], "product", matrices[:2], matrices[2:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=10)
    with TemporaryDirectory(prefix="cytomask-") as folder:
        path = Path(folder) / "product.onnx"
        path.write_bytes(model.SerializeToString())
        session = open_session(path, threads)
    factor = np.random.default_rng(0).random(SQUARE, np.float32)
    yield lambda count: one_by_one(lambda: session.run(None, {"a": factor, "b": factor}), count)


def one_by_one(work: Callable[[], object], count: int) -> list[float]:
    """Return the milliseconds of each of `count` runs."""
    spent = []
    for _ in range(count):
        started = time.perf_counter()
        work()
        spent.append((time.perf_counter() - started) * 1000)
    return spent


WAYS: dict[str, Callable[[Path, int], Way]] = {
    way.__name__: way
    for way in (
        reference,
        resize,
        native,
        resize_side_by_side,
        tile_torch,
        tile_onnxruntime,
        tiles_native,
        tiles_resize,
        tile_openvino,
        product,
    )
}


def peak_mb() -> float:
    """Return this process's peak resident memory so far, in MB (10^6 bytes)."""
    try:  # getrusage would include the parent's memory from before exec
        status = Path("/proc/self/status").read_text()
        kibibytes = float(status.partition("VmHWM:")[2].split()[0])
    except OSError:
        kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # bytes on macOS
    return kibibytes * 1024 / 1e6


def main() -> None:
    """Start, report how long that took, then run the requests."""
    way = WAYS[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
    began = time.perf_counter()
    next(way)
    imported = time.perf_counter()
    run = next(way)
    assert run is not None
    loaded = time.perf_counter()
    first = run(1)[0]
    _say(
        import_ms=(imported - began) * 1000,
        load_ms=(loaded - imported) * 1000,
        first_ms=first,
        peak_mb=peak_mb(),
    )
    for line in sys.stdin:
        started, busy = time.perf_counter(), time.process_time()
        spent = run(int(line))
        took, used = time.perf_counter() - started, time.process_time() - busy
        _say(ms=spent, seconds=took, cpu_seconds=used, peak_mb=peak_mb())


def _say(**values: Any) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    main()
