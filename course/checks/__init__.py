"""Checks of the exercises: one module for each notebook, one function for each exercise.

A check calls the learner's function with random inputs and returns what is to be judged: a Case, the answer beside the right
one (a closed form, or an implementation of another kind) and beside what each likely mistake gives; or Refusals, the sentence
of each mistake and whether it was made. `tools.exercise` does the rest: it prints one line when all is right, else it says
which idea is missing. tests/course/test_exercises.py tries every check with right and with wrong answers.
"""
