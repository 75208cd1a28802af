"""Numbers: accuracy by group and calibration in percent, measures of generated images, statistics over seeds."""

from lt_utils.metrics.extractors import Extractor, encoder_extractor, inception_extractor
from lt_utils.metrics.generation import distribution_scores, diversity, frechet_distance, inception_score
from lt_utils.metrics.generation import kernel_distance, label_accuracy, measure, measure_samples
from lt_utils.metrics.neighbours import group_memorisation, memorisation, nearest, precision_recall
from lt_utils.metrics.recognition import accuracy, calibration_error, class_accuracy, full_scores, group_accuracy
from lt_utils.metrics.recognition import largest_calibration_error, macro_f1, prior_following, reliability, scores
from lt_utils.metrics.recognition import top_k_accuracy, worst_class_accuracy
from lt_utils.metrics.statistics import format_mean, mean_error, mean_std, paired_difference, student
