"""Limits that keep serving fast, checked without a clock: the graph's size and the serving path's imports."""

import pytest

from benchmarks.cold import modules_after
from benchmarks.graph import count_flops, node_counts
from benchmarks.worker import NETWORKS

# A little above the current values. If you grow them on purpose, raise the limits here and say why.
MOST_NODES = {"native": 220, "resize": 138}
MOST_GFLOP = {"native": 2.07, "resize": 1.08}
UNWANTED = {
    *(
        "cytomask.cli.demonstration",
        "cv2",
        "matplotlib",
        "ministack",
        "onnx",
        "pandas",
        "pydantic",
        "pycocotools",
        "safetensors",
    ),
    *("scipy", "sympy", "tensorboard", "torch", "tqdm", "cytomask.training", "yaml"),
}


@pytest.mark.parametrize("mode", MOST_NODES)
def test_a_shipped_graph_has_no_more_nodes_than_its_budget(mode: str) -> None:
    assert sum(node_counts(NETWORKS[mode]).values()) <= MOST_NODES[mode]


@pytest.mark.parametrize("mode", MOST_GFLOP)
def test_a_tile_takes_no_more_operations_than_its_budget(mode: str) -> None:
    assert 0.97 < count_flops(NETWORKS[mode]) / (MOST_GFLOP[mode] * 1e9) <= 1


@pytest.mark.parametrize(
    ("module", "most"), [("cytomask.cli.segmentation", 325), ("cytomask.functions.segment.app", 770)]
)
def test_the_serving_path_imports_no_more_modules_than_its_budget(module: str, most: int) -> None:
    loaded = modules_after(module)
    packages = {name.partition(".")[0] for name in loaded} | set(loaded)
    assert packages & UNWANTED == set()
    assert len(loaded) <= most
