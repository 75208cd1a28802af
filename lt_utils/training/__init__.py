"""One loop for every network: batches, moving averages, mixed precision, checkpoints that go on exactly where they were.

One training in several processes, one for each GPU: launch.py and ranks.py."""

from lt_utils.training.checkpoints import load_model, save_model
from lt_utils.training.devices import autocast, cores, device, precision_for
from lt_utils.training.ema import EMA
from lt_utils.training.launch import on_ranks, run_on_ranks
from lt_utils.training.loop import Step, batch_of, step_now, step_seed, train, train_to_end
from lt_utils.training.lr_schedules import constant, cosine, late_multistep, linear_warmup, multistep
from lt_utils.training.lr_schedules import warmup_cosine
