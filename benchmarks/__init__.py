"""Speed beside the libraries that others use for the same work: `make bench`."""
