"""What a notebook shows: figures in one style, and tables."""

from lt_utils.viz.animation import moving, moving_images
from lt_utils.viz.figures import sample_rows
from lt_utils.viz.image_results import card_results, gap_panels, generator_rows, level_rows, paired_rows, seed_gaps
from lt_utils.viz.image_results import seeds_of, short_names, stored_tables, value_of, verdict, verdict_rows
from lt_utils.viz.tables import show, show_reference
