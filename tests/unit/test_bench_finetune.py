"""The benchmark of fine-tuning: draws by seed, and a table of means and ranges."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from tiny_model import write_pairs

from benchmarks.finetune import draw, main, table


def test_a_draw_depends_on_its_seed_alone(tmp_path: Path) -> None:
    write_pairs(tmp_path, 6)
    with (tmp_path / "index.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("source", "split", "image", "mask"))
        rows.writerows(("made", "train", f"f{seed}.tif", f"f{seed}_mask.png") for seed in range(6))
    drawn = [[page.name for page in draw(tmp_path, "made", 3, seed)] for seed in (0, 0, 1, 2)]
    assert drawn[0] == drawn[1]
    assert len({tuple(names) for names in drawn}) > 1
    assert all(len(set(names)) == 3 for names in drawn)


def row(draw: int, after: float, device: str = "a CPU") -> dict[str, Any]:
    return {
        "source": "usiigaci",
        "pairs": 3,
        "draw": draw,
        "val_before": 0.5,
        "val_after": after,
        "livecell_test_before": 0.9,
        "livecell_test_after": 0.8,
        "device": device,
        "minutes": 1.5,
        "cpu_minutes": 2.0,
    }


def test_the_table_has_means_and_ranges_over_the_draws_of_each_device() -> None:
    rows = [row(place, after) for place, after in enumerate((0.6, 0.7, 0.65))]
    assert table([*rows, row(0, 0.9, "an H100")]).splitlines()[2:] == [
        "| 3 of usiigaci | 3 | 0.500 | 0.650 (0.600 to 0.700) | 0.900 | 0.800 | 1.5 | 2.0 | a CPU |",
        "| 3 of usiigaci | 1 | 0.500 | 0.900 (0.900 to 0.900) | 0.900 | 0.800 | 1.5 | 2.0 | an H100 |",
    ]


def test_draws_of_several_processes_are_joined_and_not_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / f"{place}.json" for place in range(2)]
    for place, file in enumerate(files):
        file.write_text(json.dumps({"draws": [row(place, 0.6)]}))
    joined = tmp_path / "joined" / "all.json"
    wanted = ["--sources", "usiigaci", "--pairs", "3", "--draws", "0", "1"]
    for _ in range(2):
        main(["--data", str(tmp_path), "--out", str(joined), *wanted, "--join", *map(str, files)])
        assert "| 3 of usiigaci | 2 |" in capsys.readouterr().out
    assert [each["draw"] for each in json.loads(joined.read_text())["draws"]] == [0, 1]
