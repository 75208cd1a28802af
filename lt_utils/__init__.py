"""Helpers that the notebooks of the course share; every function has its one home here.

OMP_WAIT_POLICY is set before torch is imported: with the default policy two threads beside another busy process run
about ten times slower than with PASSIVE, because waiting threads spin instead of sleeping.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
