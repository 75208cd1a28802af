"""Diffusion in four small parts, the same for images [B, C, H, W] and for features [B, D].

schedule   how much signal and how much noise x_t holds at step t (schedules.py)
denoiser   a network (x_t, t, y) -> output (lt_utils.models)
objective  what that output stands for, and the loss (losses.py)
sampler    how to walk from noise to data (samplers.py, solvers.py; by name: generate.py)

The other modules are what is trained and drawn with them.
"""

from lt_utils.diffusion.class_balancing import MECHANISMS, class_balancing_loss, label_prior, train_generator
from lt_utils.diffusion.feature_diffusion import FeatureGenerator, GaussianDenoiser, Standardiser, load_generator
from lt_utils.diffusion.feature_diffusion import train_feature_diffusion
from lt_utils.diffusion.generate import SAMPLERS, balanced_labels, edited, read_samples, sample, sample_to
from lt_utils.diffusion.image_diffusion import train_image_diffusion
from lt_utils.diffusion.losses import OBJECTIVES, diffusion_loss, drop_labels, estimates, target
from lt_utils.diffusion.samplers import Prediction, ancestral, ddim, ddim_steps, guided
from lt_utils.diffusion.schedules import SCHEDULES, Schedule, cosine_schedule, linear_schedule
from lt_utils.diffusion.solvers import dpm_solver
