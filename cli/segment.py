"""`cytomask segment`: masks for files on the user's own disk, by the code that serves."""

import atexit
import gc
from argparse import Namespace
from pathlib import Path

from cytomask.cli.console import complain
from cytomask.cli.options import (
    OUTPUTS,
    Commands,
    Parser,
    add_cleaning_options,
    add_command,
    channel,
    probability,
)
from cytomask.cli.plate_options import add_pattern_option, add_report_options

EXAMPLES = (
    "cytomask segment a.tif                                 # masks/a.tif.mask.png",
    "cytomask segment plate/ --out masks --csv plate.csv    # a folder, and a row for each page",
    "cytomask segment plate/ --out masks --csv plate.csv    # the same again goes on where it was stopped",
    "cytomask segment stack.tif --pages 0-3 --outputs mask probability overlay",
    "cytomask segment a.tif --weights run/exported          # with weights of your own",
    "cytomask segment a.tif --min-size-px 50 --fill-holes   # without specks, and cells without holes",
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
        description="Folders keep their structure below --out. Each page of a stack gets a mask of its own,\n"
        "such as stack.tif.p0003.mask.png. The exit code is 1 if any file was refused.",
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="image files, or folders of them")
    parser.add_argument("--out", type=Path, default=Path("masks"), metavar="DIR", help="default: masks")
    parser.add_argument(
        "--csv",
        type=Path,
        metavar="FILE",
        help="write a row for each page as it is done; a run with the same settings goes on from it",
    )
    parser.add_argument(
        "--threshold",
        type=probability,
        metavar="T",
        help="probability from which on a pixel is cell, 0 to 1; default: the model's",
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
    parser.add_argument(
        "--channel", type=channel, metavar="N", help="of multi-channel images, counted from 0"
    )
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
        help="a folder of weights, or a name that `cytomask models` lists; default: those that ship",
    )
    add_cleaning_options(parser)
    plate = parser.add_argument_group("growth of a plate")
    plate.add_argument(
        "--plate",
        nargs="?",
        const="",
        metavar="NAME",
        help="measure how its wells grow; file names tell well and time, and the plate unless it is given",
    )
    plate.add_argument("--pages-csv", type=Path, metavar="FILE", help="write a row a page, tidy")
    plate.add_argument("--plate-channel", metavar="C", help="channel to measure, as names of files have it")
    add_pattern_option(plate)
    add_report_options(plate)


def run(arguments: Namespace) -> int:
    """Segment every file; 1 if any was refused, 2 if nothing could be begun."""
    # Heavy imports, in this order: what reads images is imported while the network is being loaded.
    from cytomask.model.predictor import WeightsError

    # What is left at the end goes with the process; looking through all of it first takes 15 ms.
    atexit.register(gc.freeze)
    try:
        from cytomask.cli.weights import open_weights

        predictor = open_weights(arguments.weights, arguments.mode)
        from cytomask.cli.segmentation import segment_paths

        return segment_paths(arguments, predictor)
    except WeightsError as error:
        complain(str(error))
        return 2
