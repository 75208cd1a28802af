"""Training classifiers on a long tail: losses, recipes for encoders, the second of two stages."""

from lt_utils.recognition.encoders import METHODS, RECIPES, build_encoder, encoder_loss, encoder_recipe, judge_for
from lt_utils.recognition.encoders import pretrained_encoder, train_encoder, train_judge
from lt_utils.recognition.losses import isda_loss, label_shift, log_prior, logit_adjusted_loss, mixup, mixup_loss
from lt_utils.recognition.losses import semantic_margins
from lt_utils.recognition.two_stage import HEAD_RECIPE, class_aware_order, finetune_head
