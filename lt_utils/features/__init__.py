"""What a frozen encoder makes of a data set, features to add to it, and classifiers trained on both."""

from lt_utils.features.augmentation import CONTROLS, MORE_CONTROLS, amounts_to_labels, class_gaussian, from_generator
from lt_utils.features.augmentation import index_thirds, ratio_amounts, repeated_real, resampled_real, topup_amounts
from lt_utils.features.encoding import Encoded, encode_data, load_or_train
from lt_utils.features.retraining import StandardisedHead, averaged, fit_head, oracle_bound, predict
from lt_utils.features.retraining import recalibrate_batchnorm, result_rows, retrain_head, start_linear, test_scores
from lt_utils.features.statistics import class_means, class_spread, nearest_distance, shared_covariance
from lt_utils.features.views import Views, distance_to_test, encode_views, fair_sample, fair_split
