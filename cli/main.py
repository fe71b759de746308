"""`cytomask COMMAND`: reads the command line and calls the command."""

import argparse
import atexit
import gc
import os
import signal
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0 done, 1 something was refused, 2 wrong usage."""
    parsed = _parser().parse_args(arguments)
    # A terminated command cleans up as an interrupted one does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        match parsed.command:
            case "segment":
                return _segment(parsed)
            case "demo":
                from cytomask.cli.demo import run_demo  # noqa: PLC0415  # needs the extra `local`

                return run_demo(parsed)
            case "upload" | "submit" | "evaluate" | "jobs" | "report" | "logs" | "failed" | "redrive":
                return _run_on_stack(parsed)
            case _:
                from cytomask.cli.up import run_up  # noqa: PLC0415  # needs the extra `local`

                return run_up(parsed)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def _segment(parsed: argparse.Namespace) -> int:
    """Imports what reads images while the network is loaded: who has one image waits for both."""
    from cytomask.model.predictor import Predictor, WeightsError  # noqa: PLC0415

    # What is left at the end goes with the process; to look through all of it before takes 15 ms.
    atexit.register(gc.freeze)
    try:
        predictor = Predictor(modes=[parsed.mode])
        from cytomask.cli.segment import run_segment  # noqa: PLC0415

        return run_segment(parsed, predictor)
    except WeightsError as error:
        print(error, file=sys.stderr)
        return 2


def _run_on_stack(parsed: argparse.Namespace) -> int:
    """Runs a command that needs boto3, and a stack."""
    from cytomask.cli import operations  # noqa: PLC0415  # boto3 takes half a second
    from cytomask.cli.evaluate import run_evaluate  # noqa: PLC0415
    from cytomask.cli.jobs import run_jobs  # noqa: PLC0415
    from cytomask.cli.report import run_report  # noqa: PLC0415
    from cytomask.cli.stack import run_on_stack  # noqa: PLC0415
    from cytomask.cli.submit import run_submit  # noqa: PLC0415
    from cytomask.cli.upload import run_upload  # noqa: PLC0415

    commands = {
        "upload": run_upload,
        "submit": run_submit,
        "evaluate": run_evaluate,
        "jobs": run_jobs,
        "report": run_report,
        **operations.COMMANDS,
    }
    return run_on_stack(commands[parsed.command], parsed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cytomask", description="Masks of living cells from microscope images."
    )
    commands = parser.add_subparsers(dest="command", required=True)

    segment = commands.add_parser("segment", help="masks for local files or folders, without AWS")
    segment.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="image files, or folders of them"
    )
    segment.add_argument("--out", type=Path, default=Path("masks"), metavar="DIR", help="default: masks")
    segment.add_argument(
        "--threshold",
        type=probability,
        metavar="T",
        help="probability that is cell, 0 to 1; default: the model's",
    )
    segment.add_argument("--mode", choices=("native", "resize"), default="native", help="default: native")
    segment.add_argument("--channel", type=int, metavar="N", help="of multi-channel images, counted from 0")
    segment.add_argument("--overlay", action="store_true", help="write the mask's outline on the image too")
    segment.add_argument("--csv", type=Path, metavar="FILE", help="write a row for each page")

    demo = commands.add_parser("demo", help="the whole way through the emulated stack")
    demo.add_argument("images", nargs="*", type=Path, metavar="IMAGE", help="default: generated samples")
    demo.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="default: out")

    of_a_stack = [_of_a_stack()]
    logs = commands.add_parser("logs", parents=of_a_stack, help="what the functions logged, oldest first")
    logs.add_argument("--job", metavar="ID", help="of this job, from its upload to its score")
    logs.add_argument("--since", type=duration, default="1h", metavar="TIME", help="30m, 2h, 7d; default: 1h")
    logs.add_argument("--errors", action="store_true", help="what failed or was rejected only")

    commands.add_parser("failed", parents=of_a_stack, help="which jobs failed, and why")

    redrive = commands.add_parser("redrive", parents=of_a_stack, help="send failed jobs again")
    redrive.add_argument("ids", nargs="*", metavar="ID", help="of the jobs, or how they begin; default: all")

    up = commands.add_parser("up", help="the emulated stack, until Ctrl-C")
    up.add_argument("--port", type=int, default=0, help="default: any that is free")

    upload = commands.add_parser("upload", parents=of_a_stack, help="local images into the input bucket")
    upload.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="images, or folders of them")
    upload.add_argument(
        "--ground-truth",
        nargs="+",
        type=Path,
        default=[],
        metavar="PATH",
        help="masks named as their images, COCO files, or folders of both",
    )

    submit = commands.add_parser("submit", parents=of_a_stack, help="requests for images that lie in S3")
    submit.add_argument("images", nargs="+", metavar="S3URI", help="s3://bucket/key")
    submit.add_argument("--ground-truth", metavar="S3URI", help="a mask of the image, or a COCO file")
    submit.add_argument("--group", metavar="G", help="a label to report by")
    submit.add_argument("--threshold", type=float, metavar="T", help="0 to 1; default: the model's")
    submit.add_argument("--mode", choices=("native", "resize"), help="default: native")
    submit.add_argument("--pages", metavar="P", help="0, 0-3 or all, counted from 0; default: all")
    submit.add_argument("--channel", type=int, metavar="N", help="of multi-channel images, counted from 0")
    submit.add_argument(
        "--outputs", nargs="+", choices=("mask", "probability", "overlay"), help="default: mask"
    )

    evaluate = commands.add_parser("evaluate", parents=of_a_stack, help="score masks against a COCO file")
    evaluate.add_argument("--coco", required=True, metavar="FILE", help="on this machine, or s3://bucket/key")
    evaluate.add_argument("--images", metavar="S3PREFIX", help="only images whose address begins so")

    jobs = commands.add_parser("jobs", parents=of_a_stack, help="what became of the images")
    jobs.add_argument("id", nargs="?", metavar="ID", help="all that is known of this job")
    jobs.add_argument("--status", type=str.upper, metavar="S", help="only those that are so, as FAILED")
    jobs.add_argument("--group", metavar="G", help="only those of this label")

    report = commands.add_parser(
        "report", parents=of_a_stack, help="how good the masks are, by model version and by group"
    )
    report.add_argument("--group", metavar="G", help="only images of this label")
    report.add_argument(
        "--csv", type=Path, metavar="FILE", help="write a row for each job and each of its evaluations"
    )
    report.add_argument(
        "--html", type=Path, metavar="FILE", help="write the numbers and the worst, median and best images"
    )
    return parser


def _of_a_stack() -> argparse.ArgumentParser:
    """The options of every command that works on a stack."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument(
        "--stack",
        default=os.environ.get("CYTOMASK_STACK") or "cytomask",
        metavar="NAME",
        help="CloudFormation's name of it; default: CYTOMASK_STACK, else cytomask",
    )
    options.add_argument("--endpoint-url", metavar="URL", help="what `cytomask up` prints; default: AWS")
    return options


def duration(text: str) -> timedelta:
    """Reads a time such as 90s, 30m, 2h or 7d."""
    units = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
    number, unit = text[:-1], text[-1:]
    if not number.isdecimal() or unit not in units:
        raise argparse.ArgumentTypeError(f"{text} is no time; give a number with s, m, h or d, such as 2h")
    return timedelta(**{units[unit]: int(number)})


def probability(text: str) -> float:
    """Reads a number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
