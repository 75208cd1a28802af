"""Single experiments behind notebooks/reference/*.json, each one command."""
