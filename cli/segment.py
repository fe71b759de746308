"""`cytomask segment`: make masks for files on this computer, with the same code as the stack."""

import atexit
import gc
from argparse import Namespace
from pathlib import Path

from cytomask.cli.console import complain
from cytomask.cli.options import (
    OUTPUTS,
    Commands,
    Parser,
    add_channel_option,
    add_cleaning_options,
    add_command,
    probability,
)
from cytomask.cli.plate_options import add_pattern_option, add_report_options, plate_name

EXAMPLES = (
    "cytomask segment a.tif                                 # masks/a.tif.mask.png",
    "cytomask segment plate/ --out masks --csv plate.csv    # a folder, and a row for each page",
    "cytomask segment plate/ --out masks --csv plate.csv    # again: resumes where it stopped",
    "cytomask segment stack.tif --pages 0-3 --outputs mask probability overlay",
    "cytomask segment a.tif --weights run/exported          # with your own weights",
    "cytomask segment a.tif --min-size-px 50 --fill-holes   # remove specks and fill holes in cells",
    "cytomask segment plate/ --plate --html growth.html     # doubling times of a plate over time",
)


def add_parser(commands: "Commands[Parser]") -> None:
    """Add the parser of the command."""
    parser = add_command(
        commands,
        "segment",
        "write masks for files or folders on this computer, without AWS",
        run,
        EXAMPLES,
        description="Folders keep their structure in --out. Each page of a stack gets its own mask,\n"
        "such as stack.tif.p0003.mask.png. Outputs of cytomask and masks beside images (a_mask.png beside\n"
        "a.tif) are skipped and counted. The exit code is 1 if any file was refused.",
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="image files, or folders of them")
    parser.add_argument("--out", type=Path, default=Path("masks"), metavar="DIR", help="default: masks")
    parser.add_argument(
        "--csv",
        type=Path,
        metavar="FILE",
        help="write a row for each page as it is done; a run with the same settings resumes from it",
    )
    parser.add_argument(
        "--threshold",
        type=probability,
        metavar="T",
        help="a pixel is cell if its probability is at least this, 0 to 1; default: the model's",
    )
    parser.add_argument(
        "--mode",
        choices=("native", "resize"),
        default="native",
        help="native (default): full resolution; resize: the page squashed to 224x224, fast and coarse",
    )
    parser.add_argument(
        "--pages", default="all", metavar="P", help="0, 0-3 or all, counted from 0; default: all"
    )
    add_channel_option(parser)
    parser.add_argument(
        "--outputs",
        nargs="+",
        choices=OUTPUTS,
        default=["mask"],
        help="default: mask; probability: 16-bit PNG; overlay: outlines on the page; rois: for ImageJ; "
        "geojson: for QuPath; labels: TIFF and CSV of regions; ome: OME-TIFF",
    )
    parser.add_argument("--overlay", action="store_true", help="the same as --outputs mask overlay")
    parser.add_argument(
        "--weights",
        metavar="DIR|NAME",
        help="a folder of weights, or a name from `cytomask models`; default: the shipped weights",
    )
    add_cleaning_options(parser)
    plate = parser.add_argument_group("growth of a plate")
    plate.add_argument(
        "--plate",
        type=plate_name,
        nargs="?",
        const="",
        metavar="NAME",
        help="measure how wells grow; file names give well and time, and the plate unless NAME does",
    )
    plate.add_argument(
        "--pages-csv", type=Path, metavar="FILE", help="write a tidy CSV with a row for each page"
    )
    plate.add_argument("--plate-channel", metavar="C", help="channel to measure, as written in file names")
    add_pattern_option(plate)
    add_report_options(plate)


def run(arguments: Namespace) -> int:
    """Segment every file; return 1 if any was refused, 2 if the command could not start."""
    # Heavy imports in this order: image readers are imported while the network loads.
    from cytomask.errors import InvalidPlateMap
    from cytomask.model.predictor import WeightsError

    # The process is about to end, and a collection of all objects first would take 15 ms.
    atexit.register(gc.freeze)
    try:
        from cytomask.cli.weights import open_weights

        predictor = open_weights(arguments.weights, arguments.mode)
        from cytomask.cli.segmentation import segment_paths

        return segment_paths(arguments, predictor)
    except (WeightsError, InvalidPlateMap) as error:
        complain(str(error))
        return 2
