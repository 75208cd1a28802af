"""The course's machinery: running its notebooks, checking exercises, publishing results. `python -m course` lists it."""
