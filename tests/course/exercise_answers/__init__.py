"""Answers to the exercises, as learners give them: NN.py has RIGHT, one answer per exercise that differs from the solution,
and WRONG, plausible wrong answers, each under words of the message with which its check must refuse it."""
