"""Helpers that the notebooks of the course share; every function has its one home here.

How threads wait for each other is set here, before torch is imported, and inherited by every process that this one starts.
With the default two threads beside another busy process run about ten times slower, because waiting threads spin instead
of sleeping: so they sleep. Falling asleep at once, on the other hand, costs small networks half of their speed: so they spin
for some microseconds first.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

__version__ = "0.1.0"
