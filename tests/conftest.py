"""Settings of every test process."""

import os

# Worker threads of OpenBLAS, OpenMP (torch) and ONNX Runtime wait by spinning. With more threads than free
# cores they steal time from each other: two torch threads beside other work are 30 times slower than one.
# Parallel test processes are enough to fill the cores, so each gets one thread. Child processes inherit this.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
