"""What speed and cold starts rest on, without a clock: the graph's size and what the serving path imports."""

from pathlib import Path

import pytest

from benchmarks.cold import modules_after
from benchmarks.graph import count_flops, node_counts
from benchmarks.worker import NATIVE, RESIZE

# A little above what they are: what grows them on purpose raises them here, and says why.
MOST_NODES = {NATIVE: 220, RESIZE: 155}
MOST_GFLOP = {NATIVE: 1.45, RESIZE: 1.46}
UNWANTED = {
    *(
        "cli.demo",
        "cv2",
        "matplotlib",
        "ministack",
        "onnx",
        "pandas",
        "pydantic",
        "pycocotools",
        "safetensors",
    ),
    *("scipy", "sympy", "tensorboard", "torch", "tqdm", "training", "yaml"),
}


@pytest.mark.parametrize("network", MOST_NODES, ids=["native", "resize"])
def test_a_shipped_graph_has_no_more_nodes_than_its_budget(network: Path) -> None:
    assert sum(node_counts(network).values()) <= MOST_NODES[network]


@pytest.mark.parametrize("network", MOST_GFLOP, ids=["native", "resize"])
def test_a_tile_takes_no_more_operations_than_its_budget(network: Path) -> None:
    assert 1.4e9 < count_flops(network) <= MOST_GFLOP[network] * 1e9


@pytest.mark.parametrize(("module", "most"), [("cli.segment", 285), ("functions.segment.app", 720)])
def test_the_serving_path_imports_no_more_modules_than_its_budget(module: str, most: int) -> None:
    loaded = modules_after(module)
    packages = {name.partition(".")[0] for name in loaded} | set(loaded)
    assert packages & UNWANTED == set()
    assert len(loaded) <= most
