"""Data sets whose images are named by lists: read as they stand, or made into arrays of one size."""
