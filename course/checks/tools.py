"""What every check shares: how it refuses an answer, how it compares, where its random inputs come from."""

import copy
import functools
import random as python_random
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lt_utils.metrics.statistics import student

Refusals = Mapping[str, bool]  # the sentence of each mistake, and whether it was made


class Random(torch.Generator):
    """Random numbers for inputs, with a new seed each time; the learner's own are left alone."""

    def __init__(self) -> None:
        super().__init__()
        self.seed()

    def between(self, low: float, high: float) -> float:
        """A number, uniform in low .. high."""
        return low + (high - low) * torch.rand((), generator=self, dtype=torch.float64).item()

    def whole(self, low: int, high: int) -> int:
        """A whole number in low .. high, both included."""
        return int(torch.randint(low, high + 1, (), generator=self))

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, float64."""
        return torch.randn(shape, generator=self, dtype=torch.float64)

    def scatter(self, size: float, n: int = 5) -> Tensor:
        """n numbers with mean 0 and exactly this deviation."""
        x = self.normal(n)
        return size * (x - x.mean()) / x.std()

    def prior(self, num_classes: int) -> tuple[list[int], Tensor]:
        """Training images of each class, 3 to 899, and their shares, float64 [num_classes]."""
        counts = torch.randint(3, 900, (num_classes,), generator=self)
        return counts.tolist(), counts.double() / counts.sum()


class Wrong(AssertionError):
    """An answer that is not right: its text says which idea is missing. IPython shows the sentence, and below it the error
    of the learner's own code, if one is the cause."""

    def _render_traceback_(self) -> list[str]:
        cause = self.__cause__
        own = traceback.format_exception(type(cause), cause, cause.__traceback__.tb_next) if cause else []
        return [f"Not yet right. {self}", *"".join(own).splitlines()]


class NotDone(NotImplementedError):
    """An exercise that still waits. IPython shows the sentence alone."""

    def _render_traceback_(self) -> list[str]:
        return [f"{self}"]


@dataclass
class Case:
    """One answer of the learner's function beside the right one.

    Args:
        answer, right: numbers or tensors of one shape.
        mistakes: for each known mistake the idea that is missing, and the answer which that mistake gives here; one that is
            not named gives the right answer here.
        hint: the idea to look at if no known mistake fits; by default that of the exercise.
        what: what gives the answers, for the messages. Cases of one `what` are judged together.
        rtol, atol: what counts as equal.
    """

    answer: object
    right: object
    mistakes: Mapping[str, object]
    hint: str = ""
    what: str = "The function"
    rtol: float = 1e-4
    atol: float = 1e-5

    def __post_init__(self) -> None:
        self.answer = numbers(self.answer, self.what)
        self.right = torch.as_tensor(self.right).cpu().double()

    def gives(self, other: object) -> bool:
        """Whether the answer equals `other`."""
        other = torch.as_tensor(other).cpu().double()
        return other.shape == self.answer.shape and torch.allclose(self.answer, other, rtol=self.rtol, atol=self.atol)


def exercise(number: str, praise: str, hint: str = "", *, times: int = 1, over: Iterable = ()) -> Callable:
    """Make a check of exercise `number` out of a function of the learner's answer and a random generator.

    That function is called `times`, or with each element of `over` as a third argument. It returns or yields cases and
    refusals, or raises Wrong itself. The check prints "`number` is right: `praise`." when all is right. It raises NotDone (a
    NotImplementedError) for an untouched stub, and Wrong (an AssertionError) with the missing idea, or else the hint, for a
    wrong answer.
    """
    rounds = [(one,) for one in over] or [()] * times

    def decorate(check: Callable) -> Callable[[Callable], None]:
        @functools.wraps(check, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
        def checked(answer: Callable) -> None:
            try:
                _run(check, _guarded(answer, hint), rounds, hint)
            except NotImplementedError:
                raise NotDone(
                    f"Exercise {number} waits for you: write the body of {answer.__name__} in the cell above, run it, "
                    "and run this cell again."
                ) from None
            except Wrong as wrong:
                raise Wrong(f"{number}: {wrong}") from wrong.__cause__
            print(f"{number} is right: {praise}.")

        del checked.__wrapped__  # help() shows what a learner passes: the answer alone
        return checked

    return decorate


def _run(check: Callable, answer: Callable, rounds: Iterable[tuple], hint: str) -> None:
    """Call the function of a check in all rounds and judge what it gives."""
    random, cases = Random(), []
    try:
        for which in rounds:
            found = check(answer, random, *which)
            for one in found if isinstance(found, Iterator) else [found]:
                if isinstance(one, Case):
                    cases.append(one)
                else:
                    _refuse(one or {})
    finally:
        judge(cases, hint)  # after an error, too: the cases before it may name the idea


def _guarded(answer: Callable, hint: str) -> Callable:
    """The answer, called with copies of its inputs. An error that comes of the inputs' shapes or types is one sentence, with
    what to do if two types of numbers met; any other comes through as it is, with its traceback."""

    def call(*inputs: object) -> object:
        try:
            return answer(*(x if isinstance(x, Tensor) and x.requires_grad else copy.deepcopy(x) for x in inputs))
        except (TypeError, RuntimeError, ValueError, IndexError, KeyError, AttributeError) as error:
            if isinstance(error, NotImplementedError) and "not implemented for" not in str(
                error
            ):  # torch has no such type
                raise
            if hint and "must match" in str(error):
                raise Wrong(f"The shapes do not fit together ({error}). {hint}") from error
            first = str(error).partition("\n")[0].rstrip(".")
            if "dtype" in first or "scalar type" in first:
                first += ". Numbers of two types met: give each tensor that you make the dtype of the inputs"
            given = f" It was given {', '.join(map(_described, inputs))}, in this order." if inputs else ""
            raise Wrong(f"Your function stops with {type(error).__name__}: {first}.{given}") from error

    return call


def _described(value: object) -> str:
    """An input in few words: a tensor by its type and shape."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, int | float):
        return f"{value:.4g}"
    return "a function" if callable(value) else f"a {type(value).__name__} of {len(value)}"


def judge(cases: Sequence[Case], hint: str = "") -> None:
    """Nothing if all answers are right; else Wrong, with the sentence of the mistake that gives all these answers: two ideas
    may agree once by chance, but not every time."""
    for what in dict.fromkeys(case.what for case in cases):
        together = [case for case in cases if case.what == what]
        failed = [case for case in together if not case.gives(case.right)]
        for idea in dict.fromkeys(idea for case in failed for idea in case.mistakes):
            if all(case.gives(case.mistakes.get(idea, case.right)) for case in together):
                raise Wrong(idea)
        if failed:
            first, hint = failed[0], failed[0].hint or hint
            if first.answer.shape != first.right.shape:
                shapes = f"gives shape {list(first.answer.shape)}; wanted is {list(first.right.shape)}"
                raise Wrong(f"{what} {shapes}. {hint}")
            raise Wrong(hint)


def _refuse(mistakes: Refusals) -> None:
    """Raise Wrong with the first sentence that is true; nothing if none is."""
    for idea, is_made in mistakes.items():
        if is_made:
            raise Wrong(idea)


def numbers(answer: object, what: str = "The function") -> Tensor:
    """The answer as a float64 tensor; Wrong if it is none of numbers, or holds nan."""
    if answer is None:
        raise Wrong(f"{what} gives None: a return is missing.")
    try:
        values = torch.as_tensor(answer).detach().cpu().double()
    except (TypeError, ValueError, RuntimeError):
        raise Wrong(f"{what} gives {type(answer).__name__} where numbers are needed.") from None
    if values.isnan().any():
        raise Wrong(f"{what} gives nan: somewhere 0 is divided by 0, or the root or log of a negative number is taken.")
    return values


def number(answer: object, what: str = "The function") -> float:
    """The answer as one number; Wrong if it is none."""
    values = numbers(answer, what)
    if values.numel() != 1:
        raise Wrong(f"{what} gives shape {list(values.shape)}; wanted is one number.")
    return values.item()


def pieces(answer: object, count: int, names: str) -> tuple:
    """The answer as a tuple of `count` pieces; Wrong if it is none."""
    if answer is None:
        raise Wrong("The function gives None: a return is missing.")
    if not isinstance(answer, tuple | list) or len(answer) != count:
        raise Wrong(f"The function gives {type(answer).__name__}; wanted are {count} results: {names}.")
    return tuple(answer)


def logits_like(logits: Tensor, answer: object) -> Tensor:
    """The answer as numbers; Wrong if it has not the shape of the logits."""
    given = numbers(answer)
    if given.shape != logits.shape:
        raise Wrong(f"Logits of shape {list(logits.shape)} are wanted, the answer has {list(given.shape)}.")
    return given


def predicted(answer: Callable, count: int, names: str) -> list[float]:
    """The numbers that a learner predicts."""
    return [number(value) for value in pieces(answer(), count, names)]


def near(value: float, measured: float, band: float) -> bool:
    """Whether a predicted number lies within `band` of the measured one."""
    return abs(value - measured) <= band


def ahead(ours: Sequence[float], theirs: Sequence[float], errors: bool = True, together: bool = True) -> bool:
    """Whether one method is ahead of another, by more than half of the 95 % interval of the difference over the seeds.

    together: the differences are paired. errors=False: by any amount.
    """
    ours, theirs = (torch.tensor(values, dtype=torch.float64) for values in (ours, theirs))
    variance = (ours - theirs).var() if together else ours.var() + theirs.var()
    half = student(len(ours)) * (variance / len(ours)).sqrt() if errors else 0.0
    return bool((ours - theirs).mean() > half)


def seeded(answer: Callable, *inputs: object, seed: int) -> Iterator[object]:
    """What the answer gives with a seed, with the same one again, and with another; Wrong if it moves global random numbers."""
    before = _global_random_state()
    for one in (seed, seed, seed + 1):
        yield answer(*inputs, one)
        if _global_random_state() != before:
            raise Wrong(
                "Your function moves the global random numbers, so whatever draws after it changes, too. Give it a "
                "generator of its own: torch.Generator().manual_seed(seed)."
            )


def _global_random_state() -> tuple:
    _, numpy_numbers, numpy_place, *_ = np.random.get_state()
    return torch.get_rng_state().tolist(), python_random.getstate(), numpy_numbers.tolist(), numpy_place
