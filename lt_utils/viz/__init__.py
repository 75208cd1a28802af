"""What a notebook shows: figures in one style, and tables."""

from lt_utils.viz.image_results import short_names, stored_tables
from lt_utils.viz.tables import show, show_reference

__all__ = [
    "short_names",
    "show",
    "show_reference",
    "stored_tables",
]
