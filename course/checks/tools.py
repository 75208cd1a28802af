"""What every check shares: how it refuses an answer, how it compares, where its random inputs come from."""

import functools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor


class Wrong(AssertionError):
    """An answer that is not right: its text says which idea is missing. IPython shows the sentence alone."""

    def _render_traceback_(self) -> list[str]:
        return [f"Not yet right. {self}"]


class NotDone(NotImplementedError):
    """An exercise that still waits. IPython shows the sentence alone."""

    def _render_traceback_(self) -> list[str]:
        return [f"{self}"]


def exercise(number: str, told: str) -> Callable:
    """Make a check of exercise `number` out of a function that takes the answer and raises Wrong.

    The check prints "`number` is right: `told`." when nothing was raised. It raises NotDone (a NotImplementedError) for an
    untouched stub, and Wrong (an AssertionError) with the missing idea for a wrong answer. An error inside the learner's
    own code comes through as it is, with its traceback.
    """

    def decorate(check: Callable[[Callable], None]) -> Callable[[Callable], None]:
        @functools.wraps(check)
        def checked(answer: Callable) -> None:
            try:
                check(answer)
            except NotImplementedError:
                raise NotDone(
                    f"Exercise {number} waits for you: write the body of {answer.__name__} in the cell above, run it, "
                    "and run this cell again."
                ) from None
            except Wrong as wrong:
                raise Wrong(f"{number}: {wrong}") from None
            print(f"{number} is right: {told}.")

        checked.number = number
        return checked

    return decorate


def fresh() -> torch.Generator:
    """A CPU generator with a new seed at each call; the learner's own random numbers are left alone."""
    generator = torch.Generator()
    generator.seed()
    return generator


def between(low: float, high: float, random: torch.Generator) -> float:
    """A random number, uniform in low .. high."""
    return low + (high - low) * torch.rand((), generator=random, dtype=torch.float64).item()


def whole(low: int, high: int, random: torch.Generator) -> int:
    """A random whole number in low .. high, both included."""
    return int(torch.randint(low, high + 1, (), generator=random))


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


def pieces(answer: object, count: int, names: str) -> tuple:
    """The answer as a tuple of `count` pieces; Wrong if it is none."""
    if answer is None:
        raise Wrong("The function gives None: a return is missing.")
    if not isinstance(answer, tuple | list) or len(answer) != count:
        raise Wrong(f"The function gives {type(answer).__name__}; wanted are {count} results: {names}.")
    return tuple(answer)


class Trials:
    """Answers to several random inputs, judged together: two ideas may agree once by chance, but not every time.

    Args: what: what gives the answers, for the messages. rtol, atol: what counts as equal.
    """

    def __init__(self, what: str = "The function", rtol: float = 1e-4, atol: float = 1e-5) -> None:
        self.what, self.rtol, self.atol = what, rtol, atol
        self.seen: list[tuple[Tensor, Tensor, Mapping[str, object], str]] = []

    def add(self, answer: object, right: object, mistakes: Mapping[str, object], otherwise: str) -> None:
        """Note one answer.

        Args:
            answer, right: numbers or tensors of one shape.
            mistakes: for each known mistake the idea that is missing, and the answer which that mistake gives here; one
                that is not named gives the right answer here.
            otherwise: the idea to look at if no known mistake fits.
        """
        self.seen.append((numbers(answer, self.what), torch.as_tensor(right).cpu().double(), mistakes, otherwise))

    def judge(self) -> None:
        """Nothing if all answers are right; else Wrong, with the sentence of the mistake that gives all these answers."""
        failed = [one for one in self.seen if not self._fits(one[0], one[1])]
        if not failed:
            return
        for idea in {idea: None for one in failed for idea in one[2]}:
            if all(self._fits(values, mistakes.get(idea, right)) for values, right, mistakes, _ in self.seen):
                raise Wrong(idea)
        values, right, _, otherwise = failed[0]
        if values.shape != right.shape:
            raise Wrong(f"{self.what} gives shape {list(values.shape)}; wanted is {list(right.shape)}. {otherwise}")
        raise Wrong(otherwise)

    def _fits(self, values: Tensor, other: object) -> bool:
        other = torch.as_tensor(other).cpu().double()
        return other.shape == values.shape and torch.allclose(values, other, rtol=self.rtol, atol=self.atol)


def settle(
    answer: object,
    right: object,
    mistakes: Mapping[str, object],
    otherwise: str,
    *,
    what: str = "The function",
    rtol: float = 1e-4,
    atol: float = 1e-5,
) -> None:
    """Trials with one answer: nothing if it is right, else Wrong with the missing idea."""
    trials = Trials(what, rtol, atol)
    trials.add(answer, right, mistakes, otherwise)
    trials.judge()


def near(value: float, measured: float, band: float) -> bool:
    """Whether a predicted number lies within `band` of the measured one."""
    return abs(value - measured) <= band
