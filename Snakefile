# The course as a graph of notebook runs. `python -m course run` writes the plan that is read here, starts this and shows the
# progress. On its own, afterwards: snakemake --directory runs/quick --configfile runs/quick/.batch/plan.json --cores 1 ...
#
# More than 2,000 runs are done in parts, each a Snakemake of its own (`slices` in course/batch/launch.py); then the runs of the other
# parts are not in the plan, and the scoreboard comes last.
#
# A run is repeated when its `job` changed (its parameters, the notebook's code) or when a run that it builds on was repeated.

import json
import re
import shlex
import sys

from course.batch.slurm import job_threads

# Each notebook and those whose runs it builds on. Where there is a choice this order decides: it is that of the course, but
# 08 comes before 07, which is shorter: at the end of a batch no core should wait for a long run.
BUILDS_ON = {
    "00_start_here": [],
    "01_long_tailed_data": [],
    "02_why_the_tail_is_hard": [],
    "03_encoders": [],
    "04_ddpm_from_scratch": [],
    "05_ddim_and_guidance": ["04_ddpm_from_scratch"],
    "06_class_balancing_diffusion": [],
    "08_classifier_retraining": ["03_encoders"],
    "07_latent_diffusion": ["03_encoders"],
    "09_feature_translation": ["03_encoders"],
    "10_self_supervision": [],
    "11_vision_transformers": [],
    "A1_measuring_images": [],
    "A2_small_print": [],
}
NO_NUMBERS = ("00", "01", "02", "A1", "A2")  # of no method for the scoreboard
BUILDS_ON["12_scoreboard"] = [name for name in BUILDS_ON if name[:2] not in NO_NUMBERS]
TRAINS_NOTHING = ("00_start_here", "01_long_tailed_data", "12_scoreboard", "A2_small_print")  # they ask for no GPU
PYTHON = shlex.quote(sys.executable).replace("{", "{{").replace("}", "}}")  # Snakemake fills in what stands in braces
PLAN = config["jobs"]  # notebook -> run -> job, see course/batch/plan.py


def upstream(notebook, run):
    """The runs to finish first; of notebooks that the configuration leaves out (published encoders need no 03) none."""
    others = [other for other in BUILDS_ON.get(notebook, []) if other in PLAN]
    return [f"{other}/{name}/.done" for other in others for name in (PLAN[other] if run == "all" else [run])]


rule all:
    input: [f"{notebook}/{run}/.done" for notebook, runs in PLAN.items() for run in runs]


for notebook, runs in PLAN.items():
    rule:
        name: notebook[3:]
        input: lambda wildcards, notebook=notebook: upstream(notebook, wildcards.run)
        output: f"{notebook}/{{run}}/.done"
        wildcard_constraints: run="|".join(map(re.escape, runs))
        params: job=lambda wildcards, runs=runs: json.dumps(runs[wildcards.run], sort_keys=True)
        resources: gpu=0 if notebook in TRAINS_NOTHING else config["gpu"]
        threads: job_threads()  # becomes OMP_NUM_THREADS of the job; on a cluster the profile's cpus_per_task
        priority: -list({**BUILDS_ON, notebook: []}).index(notebook)
        shell: f"LT_NEEDS_GPU={{resources.gpu}} {PYTHON} -m course.batch.execute {{params.job:q}} {{input}}"
