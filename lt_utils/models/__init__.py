"""Networks. Each has a `config`, the arguments it was built with; denoisers also `no_label`, the label for none."""

from lt_utils.models.feature_denoisers import FeatureUNet, ResidualMLP
from lt_utils.models.heads import CosineHead, LinearHead, WCDASHead, build_head
from lt_utils.models.inception import Inception
from lt_utils.models.mae import MaskedAutoencoder, random_order, standardise
from lt_utils.models.pretrained import load_pretrained, pretrained_card, pretrained_names
from lt_utils.models.published import load_published_ldmlr
from lt_utils.models.resnet import Block, ResNet, channel_statistics, encode
from lt_utils.models.unet import Condition, GroupNorm, ResidualBlock, SelfAttention, UNet, parameter_counts
from lt_utils.models.unet import published_unet, sinusoid
from lt_utils.models.vit import VIT_SIZES, ViT, from_patches, to_patches
