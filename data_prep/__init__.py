"""Makes data sets for the course: fetch, verify, convert. `python -m data_prep --help` shows the command."""
