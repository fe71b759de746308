"""What speed and cold starts rest on, without a clock: the graph's size and what the serving path imports."""

import pytest

from benchmarks.cold import modules_after
from benchmarks.graph import count_flops, node_counts
from benchmarks.worker import WEIGHTS

# A little above what they are: what grows them on purpose raises them here, and says why.
MOST_NODES = 355
MOST_GFLOP = 1.45
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


def test_the_shipped_graph_has_no_more_nodes_than_its_budget() -> None:
    assert sum(node_counts(WEIGHTS).values()) <= MOST_NODES


def test_a_tile_takes_no_more_operations_than_its_budget() -> None:
    assert 1.4e9 < count_flops(WEIGHTS) <= MOST_GFLOP * 1e9


@pytest.mark.parametrize(("module", "most"), [("cli.segment", 285), ("functions.segment.app", 720)])
def test_the_serving_path_imports_no_more_modules_than_its_budget(module: str, most: int) -> None:
    loaded = modules_after(module)
    packages = {name.partition(".")[0] for name in loaded} | set(loaded)
    assert packages & UNWANTED == set()
    assert len(loaded) <= most
