"""What a notebook shows: figures in one style, and tables."""

from lt_utils.viz.animation import moving, moving_images
from lt_utils.viz.image_results import short_names, stored_tables
from lt_utils.viz.tables import show, show_reference
