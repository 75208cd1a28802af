"""Images as tensors, and what is done to them before a network sees them."""

from lt_utils.data.augmentation import AUGMENTATIONS, auto_view, contrast_view, cutout, half_size, rand_augment
from lt_utils.data.augmentation import random_affine, random_colour, random_crop_flip, random_erasing, random_flip
from lt_utils.data.augmentation import random_resized_crop, strong_view, to_bytes, to_signed, two_crops, unit
from lt_utils.data.autoaugment import auto_augment
from lt_utils.data.datasets import ImageData, data_folder, load, names
from lt_utils.data.edm_augmentation import edm_augment
from lt_utils.data.longtail import class_counts, class_table, group_indices, group_of, hold_out
from lt_utils.data.longtail import latin_square, ordered_counts, subset
