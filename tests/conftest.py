"""Settings of every test process: threads, number of examples per property, order of files.

`make test` gives each property a fifth of its examples; `make test-slow` repeats them with all of them.
"""

import gc
import os
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings

gc.disable()  # until the tests begin: imports make a million objects, and all stay

# Worker threads of OpenBLAS, OpenMP (torch) and ONNX Runtime wait by spinning. With more threads than free
# cores they steal time from each other: two torch threads beside other work are 30 times slower than one.
# Parallel test processes are enough to fill the cores, so each gets one thread. Child processes inherit this.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

# A shell's background job ignores Ctrl-C, and its children inherit that. Tests send it to programs.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("few", settings.get_profile("ci"), max_examples=20)


LONGEST_NAME = 80  # characters of a value that names a test
FUNCTIONAL = Path(__file__).parent / "functional"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest: a parallel run ends when its last file does.

    Before Python 3.12, counting lines makes boto3 and moto half as fast, so `--cov` counts the unit tests
    alone.
    """
    twice = [name for name, count in Counter(item.nodeid for item in items).items() if count > 1]
    if twice:  # parallel runs would run only one of each
        raise pytest.UsageError(f"tests share a name: {', '.join(twice)}")
    items.sort(key=starts_late)
    if sys.version_info < (3, 12):
        for item in items:
            if FUNCTIONAL in item.path.parents:
                item.add_marker(pytest.mark.no_cover)


def pytest_runtestloop() -> None:
    """Collect garbage again, but seldom among what has stayed: a search of that takes half a second."""
    gc.freeze()
    gc.set_threshold(10_000, 10, 50)
    gc.enable()


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a case by its argument where the value is a whole file or a thousand letters."""
    return argname if isinstance(val, str | bytes) and len(val) > LONGEST_NAME else None


def starts_late(item: pytest.Item) -> bool:
    """Tell whether a test is in a file without the mark `long`. False sorts first."""
    return item.get_closest_marker("long") is None
