"""Running the whole course: the plan, one notebook run, what is said meanwhile, the report. Nothing here imports torch."""
