"""The benchmark of fine-tuning: draws by seed, and a table of means and ranges."""

import csv
from pathlib import Path

from tiny_model import write_pairs

from benchmarks.finetune import draw, table


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


def test_the_table_has_means_and_ranges_over_the_draws() -> None:
    rows = [
        {
            "source": "usiigaci",
            "pairs": 3,
            "draw": place,
            "val_before": 0.5,
            "val_after": after,
            "livecell_test_before": 0.9,
            "livecell_test_after": 0.8,
            "cpu_minutes": 2.0,
        }
        for place, after in enumerate((0.6, 0.7, 0.65))
    ]
    assert table(rows).splitlines()[-1] == (
        "| 3 of usiigaci | 3 | 0.500 | 0.650 (0.600 to 0.700) | 0.900 | 0.800 | 2.0 |"
    )
