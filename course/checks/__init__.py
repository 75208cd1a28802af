"""Checks of the exercises: one module for each notebook, one function for each exercise.

A check takes the learner's function, calls it with fresh random inputs and compares the answers with a closed form or an
implementation of another kind. It prints one line when they are right. When they are wrong it says which idea is missing;
`tools` has what all checks share. tests/test_exercises.py tries every check with right and with wrong answers.
"""
