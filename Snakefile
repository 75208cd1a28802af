# The course as a graph of notebook runs. `make run` and `make full` start it through `python -m course run`, which
# shows the progress; on its own: snakemake --directory runs/quick --configfile config/quick.yaml --cores 1 ...
#
#     00   01   03 ──► 07 ──► 12        03, 05 and all others that measure something come before 12
#               03 ──► 08 ──► 12
#               04 ──► 05 ──► 12
#               04 ──► 06 ──► 12
#
# A run is finished when its .done is newer than what it depends on: its paper (.batch/<notebook>/<run>.json, touched
# only when the notebook's code or the parameters change) and the .done of the runs it builds on.

import os
import shlex
import sys

from course.batch import plan as planning

WANTED = planning.plan(config)
planning.write_down(WANTED)

GPU = int(config.get("gpu", 0))  # GPUs that a run which trains asks for
# Snakemake sets OMP_NUM_THREADS for every job, to 1 if its rule names no threads: the batch says each job's share.
THREADS = int(os.environ.get("LT_JOB_THREADS", 1))
# Each rule's priority keeps the order of the course where there is a choice; but 08 comes before 07, which is shorter: at
# the end of a batch no core should wait for a long run.
SPREAD = "{data}-if{imbalance}-seed{seed}"
RUN_ONE = f"{shlex.quote(sys.executable)} -m course.batch.execute {{input}}"
RUN_ON_GPU = "LT_NEEDS_GPU={resources.gpu} " + RUN_ONE


def paper(notebook, run=SPREAD):
    return f".batch/{notebook}/{run}.json"


def done(notebook, run=SPREAD):
    return f"{notebook}/{run}/.done"


def before(notebook):
    """The run that a run builds on, if the configuration has that notebook: published encoders need no notebook 03."""
    return [done(notebook)] if notebook in config["notebooks"] else []


def all_runs(*notebooks):
    return [done(wanted.notebook, wanted.run) for wanted in WANTED if wanted.notebook in notebooks or not notebooks]


wildcard_constraints:
    imbalance=r"[\d.]+",
    seed=r"\d+",


rule all:
    input:
        all_runs(),


rule start_here:
    input:
        paper("00_start_here", "all"),
    output:
        done("00_start_here", "all"),
    threads: THREADS
    priority: 100
    shell:
        RUN_ONE


rule long_tailed_data:
    input:
        paper("01_long_tailed_data"),
    output:
        done("01_long_tailed_data"),
    threads: THREADS
    priority: 99
    shell:
        RUN_ONE


rule encoders:
    input:
        paper("03_encoders"),
    output:
        done("03_encoders"),
    resources:
        gpu=GPU,
    threads: THREADS
    priority: 97
    shell:
        RUN_ON_GPU


rule ddpm_from_scratch:
    input:
        paper("04_ddpm_from_scratch"),
    output:
        done("04_ddpm_from_scratch"),
    resources:
        gpu=GPU,
    threads: THREADS
    priority: 96
    shell:
        RUN_ON_GPU


rule ddim_and_guidance:
    input:
        paper("05_ddim_and_guidance"),
        before("04_ddpm_from_scratch"),
    output:
        done("05_ddim_and_guidance"),
    resources:
        gpu=GPU,
    threads: THREADS
    priority: 95
    shell:
        RUN_ON_GPU


rule class_balancing_diffusion:
    input:
        paper("06_class_balancing_diffusion"),
        before("04_ddpm_from_scratch"),
    output:
        done("06_class_balancing_diffusion"),
    resources:
        gpu=GPU,
    threads: THREADS
    priority: 94
    shell:
        RUN_ON_GPU


rule latent_diffusion:
    input:
        paper("07_latent_diffusion"),
        before("03_encoders"),
    output:
        done("07_latent_diffusion"),
    resources:
        gpu=GPU,
    threads: THREADS
    priority: 92
    shell:
        RUN_ON_GPU


rule classifier_retraining:
    input:
        paper("08_classifier_retraining"),
        before("03_encoders"),
    output:
        done("08_classifier_retraining"),
    resources:
        gpu=GPU,
    threads: THREADS
    priority: 93
    shell:
        RUN_ON_GPU


rule scoreboard:
    input:
        paper("12_scoreboard", "all"),
        all_runs(
            "03_encoders",
            "05_ddim_and_guidance",
            "06_class_balancing_diffusion",
            "07_latent_diffusion",
            "08_classifier_retraining",
        ),
    output:
        done("12_scoreboard", "all"),
    threads: THREADS
    priority: 88
    shell:
        RUN_ONE
