"""Checks of the exercises of notebook 08: amounts of added features, resampling, the prior that is left, paired differences,
and what a claim about generated features has to survive."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from course.checks.long_tailed_data import CIFAR10
from course.checks.tools import Case, Random, Refusals, Wrong, ahead, exercise, logits_like, numbers, pieces, seeded
from lt_utils.metrics.statistics import student

CONTROLS = ("No generation", "Resampled real", "Class Gaussian", "Uniform noise")
METHOD, BASELINE = "Diffusion", "Cross-entropy"


@exercise("8.1", "the published totals 2,480 / 2,173 / 252 / 55, and 20 random cases")
def ratio_amounts(answer: Callable, random: Random) -> Iterator[Case]:
    """answer(counts [C], ratio, chosen, least) -> features to add to each class, [C]."""
    cases = [(CIFAR10, 2, list(classes), 5) for classes in (range(10), range(4), range(4, 7), range(7, 10))]
    for _ in range(20):
        counts = torch.randint(3, 600, (random.whole(5, 9),), generator=random).tolist() + [25, 35]
        chosen = torch.randperm(len(counts) - 2, generator=random)[:3].tolist() + [len(counts) - 2, len(counts) - 1]
        cases.append((counts, 1, sorted(chosen), len(cases) % 6 + 1))
    for counts, tenths, chosen, least in cases:
        ratio = tenths / 10
        rounded = [_round_half_even(tenths * n) for n in counts]
        enough = [max(one, least) for one in rounded]

        def chosen_get(amounts: Sequence[int], others: int = 0, chosen: Sequence[int] = chosen) -> list[int]:
            return [amount if c in chosen else others for c, amount in enumerate(amounts)]

        right = chosen_get(enough)
        mistakes = {
            "Classes that were not chosen get `least` features too. They get none.": chosen_get(enough, least),
            "All classes get features; only the chosen ones should.": enough,
            "`least` is missing: a rare class with few real features still gets that many.": chosen_get(rounded),
            "This cuts the decimals off. Round to the nearest whole number.": chosen_get(
                [max(tenths * n // 10, least) for n in counts]
            ),
            "Halves go to the even number, as Python's own round() does (2.5 becomes 2): yours always go up.": chosen_get(
                [max((tenths * n + 5) // 10, least) for n in counts]
            ),
            "`least` is a lower bound (max), not an upper one (min).": chosen_get([min(one, least) for one in rounded]),
            "These are the sizes after the addition; wanted is what is added.": [
                n + more for n, more in zip(counts, right, strict=True)
            ],
        }
        hint = (
            f"For the counts {counts[-3:]} (the last three), ratio {ratio} and least = {least}, the chosen ones get "
            "max(round(ratio * n), least), and all others 0."
        )
        yield Case(answer(counts, ratio, chosen, least), right, mistakes, hint)


def _round_half_even(tenths: int) -> int:
    """tenths / 10, rounded; halves to the even number."""
    down, rest = divmod(tenths, 10)
    return down + (rest > 5 or (rest == 5 and down % 2 == 1))


@exercise("8.2", "the right number of each class, real features only, drawn with replacement", times=5)
def resampled(answer: Callable, random: Random) -> Refusals:
    """answer(features [N, D], labels [N], amounts [C], seed) -> (features [M, D], labels [M]), M = sum(amounts)."""
    counts = [random.whole(10, 40) for _ in range(4)]
    labels = torch.arange(4).repeat_interleave(torch.tensor(counts))[torch.randperm(sum(counts), generator=random)]
    features = torch.randn(len(labels), 3, generator=random)
    amounts = [0, random.whole(200, 300), random.whole(1, 5), 60]
    (made, made_labels), (again, _), (other, _) = (
        pieces(result, 2, "features and labels") for result in seeded(answer, features, labels, amounts, seed=1)
    )
    added = numbers(made, "The first result").float()
    added_labels = numbers(made_labels, "The second result").long()
    if added.shape != (sum(amounts), 3) or added_labels.shape != (sum(amounts),):
        raise Wrong(
            f"{sum(amounts)} features are asked for and {len(torch.atleast_1d(added))} were made. A class may have fewer real "
            "features than it needs: draw *with* replacement, torch.randint instead of a permutation."
        )
    same = (added[:, None] == features[None]).all(2)

    def drawn_by_turns(c: int) -> bool:
        used = same[added_labels == c].sum(0)[labels == c]
        is_even = used.max() - used.min() <= 1 and amounts[c] > 2 * counts[c]
        return bool(is_even) or len(used[used > 0]) == 1 < counts[c]

    return {
        "Class c must get amounts[c] features: the labels of the result do not say so.": (
            torch.bincount(added_labels, minlength=4).tolist() != amounts
        ),
        "Some features are no real ones. This control must bring *nothing new*: no noise, no mixing, or it does not "
        "show what more weight alone would do.": not same.any(1).all(),
        "A feature was drawn from one class and labelled as another: draw within each class.": (
            (labels[same.float().argmax(1)] != added_labels).any()
        ),
        "Every real feature is repeated equally often (or only one of them): draw by chance, so that the control "
        "has the random fluctuations that a generator has.": drawn_by_turns(1) or drawn_by_turns(3),
        "The same seed gave other features: draw with torch.Generator().manual_seed(seed).": (
            not torch.equal(numbers(again).float(), added)
        ),
        "Another seed gave the same features: the seed is not used.": torch.equal(numbers(other).float(), added),
    }


@exercise(
    "8.3",
    "Bayes' rule holds after 20 random top-ups",
    "The head learned p(c | x) under the prior of what it was *trained* on: subtract log(n_c + g_c), up to a constant.",
    over=range(20),
)
def corrected(answer: Callable, random: Random, trial: int) -> Case:
    """answer(logits [B, C], counts [C], added [C]) -> logits [B, C] for a balanced test set."""
    classes = random.whole(3, 7)
    counts, added = (torch.randint(5, 900, (classes,), generator=random) for _ in range(2))
    if trial % 4 == 3:
        added = counts.max() - counts  # a full top-up: balanced already
    given_class = torch.softmax(random.normal(classes, 20), 1)
    joint = (counts + added)[:, None] * given_class
    logits = (joint / joint.sum(0)).T.log()
    right = (given_class / given_class.sum(0)).T
    given = logits_like(logits, answer(logits, counts.tolist(), added.tolist()))
    real, more = counts.double(), added.double().clamp(min=1e-9)
    changes = {
        "This takes out the *original* prior. The head was trained on n_c + g_c and has learned that one: what the added "
        "features corrected would be corrected twice.": -real.log(),
        "Only the added features are counted; the head saw the real ones, too.": -more.log(),
        "The prior is added; it has to be taken out.": (real + more).log(),
        "Both priors are taken out one after the other. The head has one prior, that of the sums n_c + g_c.": (
            -real.log() - more.log()
        ),
        "The logits are unchanged; only a full top-up needs no correction.": 0 * real,
        "The ratio of both sizes is taken out, which is what the top-up changed; wanted is the prior that it left.": (
            real.log() - (real + more).log()
        ),
    }
    mistakes = {idea: torch.softmax(logits + change, 1) for idea, change in changes.items()}
    return Case(torch.softmax(given, 1), right, mistakes)


@exercise("8.4", "mean and 95 % interval of paired differences, in 20 random comparisons", times=20)
def paired(answer: Callable, random: Random) -> Iterator[Case]:
    """answer(ours [n], theirs [n]) -> (mean difference, half of its 95 % interval)."""
    n = random.whole(3, 10)
    shared = 70 + 3 * random.normal(n)
    ours, theirs = (shared + random.normal(n) for _ in range(2))
    d = [a - b for a, b in zip(ours.tolist(), theirs.tolist(), strict=True)]
    mean = sum(d) / n
    squares, factor = sum((one - mean) ** 2 for one in d), student(n)
    spread = (squares / (n - 1)) ** 0.5
    error = spread / n**0.5
    apart = ((ours.var() + theirs.var()) / n).sqrt().item()
    given = pieces(answer(ours.tolist(), theirs.tolist()), 2, "the mean and half of the interval")
    mistakes = {"The sign is turned round: ours minus theirs is positive when ours is better.": -mean}
    yield Case(given[0], mean, mistakes, "The mean of the differences ours - theirs, seed by seed.", "The mean")
    mistakes = {
        "The two methods were treated as independent. They share their seeds: take the differences first, so that what "
        "a seed does to both cancels.": factor * apart,
        "This is the spread of single differences; the error of their *mean* is smaller by sqrt(n).": factor * spread,
        "1.96 holds for many seeds. With few the deviation itself is uncertain: student(n) instead.": 1.96 * error,
        "This is one standard error; the interval reaches student(n) of them to each side.": error,
        "The deviation needs n - 1 in its denominator: the mean was estimated from the same seeds.": (
            factor * squares**0.5 / n
        ),
        "This is the whole width; wanted is half of it.": 2 * factor * error,
    }
    hint = "student(n) times the standard deviation of the differences (n - 1 in the denominator) divided by sqrt(n)."
    yield Case(given[1], factor * error, mistakes, hint, "Half of the interval", rtol=2e-3)  # tables: 3 decimals


@exercise(
    "8.5",
    "two true claims are upheld, and six false ones are seen through",
    "Take the paired differences between the method and each control; the claim stands if every one of them is larger "
    "than half of its 95 % interval.",
    times=3,
)
def verdict(answer: Callable, random: Random) -> Iterator[Case]:
    """answer(results: {method: [accuracy of each seed]}) -> whether "the generated features help" is supported."""
    for truth, results in _tables_with_known_truth(random):
        claim = answer(results)
        if not isinstance(claim, bool) and not (isinstance(claim, Tensor) and claim.dtype == torch.bool):
            raise Wrong(f"The verdict is True (supported) or False, not {claim!r}.")
        mistakes = {
            "You compared with cross-entropy alone. Retraining and more weight for rare classes come with the method and need "
            "no generated feature: the opponents are the controls.": _beats(results, [BASELINE]),
            "You compared with retraining without generation alone. More weight for rare classes could explain the gain: "
            "resampled real features show how much of it.": _beats(results, ["No generation"]),
            "The verdict looks at means only. In one of the tables the method is ahead by less than its paired "
            "error.": _beats(results, CONTROLS, errors=False),
            "A true claim was refused: the error was computed as if the methods did not share their seeds. Pair "
            "them.": _beats(results, CONTROLS, together=False),
            "Uniform noise was left out because it is no serious opponent. In one table it wins: then features are not what "
            "helped.": _beats(results, [name for name in CONTROLS if name != "Uniform noise"]),
            "You compared with resampled real features alone. Each control takes away one other explanation; all must be "
            "beaten.": _beats(results, ["Resampled real"]),
            "Beating one control is not enough: the claim must survive the *best* of them.": any(
                _beats(results, [name]) for name in CONTROLS
            ),
            "Every claim was believed.": True,
            "Every claim was refused; two of them are good ones.": False,
        }
        yield Case(claim, truth, mistakes)


def _beats(
    results: Mapping[str, list[float]], rivals: Sequence[str], errors: bool = True, together: bool = True
) -> bool:
    """Whether the method is ahead of every rival, by more than half of the 95 % interval of the difference (`together`:
    paired) unless `errors` is False."""
    return all(ahead(results[METHOD], results[rival], errors, together) for rival in rivals)


def _tables_with_known_truth(random: Random) -> list[tuple[bool, dict[str, list[float]]]]:
    """Result tables with the verdict that they deserve: five seeds, whose effect all methods share. In each false one
    something else explains the gain."""

    def table(tops: Mapping[str, float], noise: float = 0.1) -> dict[str, list[float]]:
        seeds = 70 + random.scatter(2.0)
        heights = {BASELINE: -6.0} | dict.fromkeys(CONTROLS, 0.0) | tops
        return {
            name: (seeds + height + random.scatter(noise if name == METHOD else 0.05)).tolist()
            for name, height in heights.items()
        }

    return [
        (True, table({METHOD: 1.2})),
        (False, table({METHOD: 4.0, "Resampled real": 4.1, "Class Gaussian": 3.0})),  # it was the weight
        (False, table({METHOD: 3.0, "Uniform noise": 4.0, "Resampled real": 1.0})),  # it was not even features
        (False, table({METHOD: 3.0, "No generation": 3.1})),  # it was the retraining
        (False, table({METHOD: 0.5}, noise=1.2)),  # it was chance
        (False, table({METHOD: 2.0, "Class Gaussian": 2.6})),  # a Gaussian does it
        (False, table({METHOD: -8.0})),  # it did harm
        (True, table({METHOD: 9.0, "Resampled real": 2.0, "Uniform noise": -3.0})),
    ]
