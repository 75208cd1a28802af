"""Training classifiers on a long tail: losses, recipes for encoders, the second of two stages.

The two stages of transformers, and several seeds as one batched network, are used through their modules:
`from lt_utils.recognition import masked, together`.
"""

from lt_utils.recognition.encoders import METHODS, RECIPES, build_encoder, encoder_loss, encoder_recipe, judge_for
from lt_utils.recognition.encoders import pretrained_encoder, train_encoder, train_judge
from lt_utils.recognition.losses import LOSSES, build_loss, class_weights, label_shift, log_odds, log_prior
from lt_utils.recognition.losses import logit_adjusted_loss, sigmoid_label_shift
from lt_utils.recognition.mixing import cutmix, mixup, mixup_loss, soft_targets
from lt_utils.recognition.sampling import class_aware_order, deferred, in_order, resampled_order
from lt_utils.recognition.semantic import isda_loss, semantic_margins
from lt_utils.recognition.two_stage import HEAD_RECIPE, finetune_head, frozen_body, nearest_mean, tau_normalise
