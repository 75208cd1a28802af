"""The library of the course. Import from its folders:

    data         data sets as tensors, long-tail rules, augmentation of whole batches
    training     one loop for every network: resume, moving average, mixed precision
    models       ResNet, U-Net, feature denoisers, heads
    recognition  losses and recipes for classifiers on a long tail
    diffusion    schedules, losses, samplers; images and features use the same
    features     a frozen encoder's features: views, generated and real ones, retraining
    metrics      accuracy by group, calibration, Fréchet and kernel distance, statistics over seeds
    runs         the folder of a run: parameters, checkpoints, record
    viz          figures and tables

They import downwards only: training, data < models, runs < recognition, diffusion, metrics < features, viz.
Below them all stand cores.py, errors.py, files.py, hashing.py, processes.py and progress.py.

How threads wait for each other is set here, before torch is imported, and inherited by every process that this one starts.
With the default two threads beside another busy process run about ten times slower, because waiting threads spin instead
of sleeping: so they sleep. Falling asleep at once, on the other hand, costs small networks half of their speed: so they spin
for some microseconds first.
"""

import os
import sys

from lt_utils import _moved

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

# A terminal or a log that is not UTF-8 shows ? for a sign that it does not know; print would end the work with an error.
if getattr(sys.stdout, "errors", None) == "strict" and hasattr(sys.stdout, "reconfigure"):
    sys.stdout.reconfigure(errors="replace")

__version__ = "0.1.0"

if sys.argv[:1] == ["-m"]:
    _moved.answer(sys.orig_argv)
