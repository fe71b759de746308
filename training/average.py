"""Average two networks: `python -m cytomask.training.average BEFORE AFTER --share 0.65 --out FILE`.

Fine-tuning learns new pages and forgets a little of the old ones. A point on the line between the weights
before and after often keeps both (Wortsman et al. 2022, arXiv:2109.01903).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cytomask.model.export import read_lineage
from cytomask.training.checkpoints import load_network, save


def average(before: Path, after: Path, share: float, out: Path) -> None:
    """Write the weights that lie `share` of the way from `before` to `after`, with the lineage of `after`.

    Raises:
        ValueError: the two are not networks of the same sizes, or `after` does not say what it began from.
    """
    first, second = load_network(before), load_network(after)
    if first.config != second.config:
        raise ValueError(
            f"{before} and {after} are networks of different sizes; average a run with its start"
        )
    start = first.state_dict()
    between = {
        name: start[name] + share * (value - start[name]) if value.is_floating_point() else value
        for name, value in second.state_dict().items()
    }
    second.load_state_dict(between)
    out.parent.mkdir(parents=True, exist_ok=True)
    save(second, out, read_lineage(after))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description="Average the weights before and after a run.")
    parser.add_argument("before", type=Path, help="weights that the run began from")
    parser.add_argument("after", type=Path, help="swin_unet.safetensors of the run")
    parser.add_argument("--share", type=float, required=True, help="0 for before, 1 for after")
    parser.add_argument("--out", type=Path, required=True, help="the averaged weights")
    given = parser.parse_args(arguments)
    try:
        average(given.before, given.after, given.share, given.out)
    except (ValueError, OSError) as error:
        print(f"cannot average: {error}", file=sys.stderr)
        return 1
    print(f"{given.out}: {given.share:g} of the way from {given.before} to {given.after}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
