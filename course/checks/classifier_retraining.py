"""Tables of results with a known truth, for exercise 8.5: what a claim about generated features has to survive."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from course.checks.tools import Trials, Wrong, exercise, fresh, numbers, pieces, settle, whole
from lt_utils.metrics.statistics import student

CONTROLS = ("No generation", "Resampled real", "Class Gaussian", "Uniform noise")
METHOD, BASELINE = "Diffusion", "Cross-entropy"


def half_interval(first: Sequence[float], second: Sequence[float], together: bool = True) -> tuple[float, float]:
    """Mean difference and half of its 95 % interval; `together`: paired."""
    a, b = torch.tensor(first, dtype=torch.float64), torch.tensor(second, dtype=torch.float64)
    variance = (a - b).var() if together else a.var() + b.var()
    factor = student(len(first))
    return (a - b).mean().item(), factor * (variance / len(first)).sqrt().item()


def beats(
    results: Mapping[str, Sequence[float]], rivals: Sequence[str], errors: bool = True, together: bool = True
) -> bool:
    """Whether the method is ahead of every rival, by more than half of the interval unless `errors` is False."""
    differences = [half_interval(results[METHOD], results[rival], together) for rival in rivals]
    return all(mean > (half if errors else 0) for mean, half in differences)


def worlds(random: torch.Generator) -> list[tuple[bool, dict[str, list[float]]]]:
    """Result tables with the verdict that they deserve: five seeds, whose effect all methods share."""

    def scatter(size: float) -> Tensor:
        """Five numbers with mean 0 and exactly this deviation."""
        x = torch.randn(5, generator=random, dtype=torch.float64)
        return size * (x - x.mean()) / x.std()

    def world(tops: Mapping[str, float], noise: float) -> dict[str, list[float]]:
        seeds = 70 + scatter(2.0)
        heights = {BASELINE: -6.0} | dict.fromkeys(CONTROLS, 0.0) | tops
        steady = {name: seeds + height + scatter(0.05) for name, height in heights.items()}
        steady[METHOD] = seeds + heights[METHOD] + scatter(noise)
        return {name: values.tolist() for name, values in steady.items()}

    return [
        (True, world({METHOD: 1.2}, 0.1)),
        (False, world({METHOD: 4.0, "Resampled real": 4.1, "Class Gaussian": 3.0}, 0.1)),  # it was the weight
        (False, world({METHOD: 3.0, "Uniform noise": 4.0, "Resampled real": 1.0}, 0.1)),  # it was not even features
        (False, world({METHOD: 3.0, "No generation": 3.1}, 0.1)),  # it was the retraining
        (False, world({METHOD: 0.5}, 1.2)),  # it was chance
        (False, world({METHOD: 2.0, "Class Gaussian": 2.6}, 0.1)),  # a Gaussian does it
        (False, world({METHOD: -8.0}, 0.1)),  # it did harm
        (True, world({METHOD: 9.0, "Resampled real": 2.0, "Uniform noise": -3.0}, 0.1)),
    ]


def _round_half_even(tenths: int) -> int:
    """tenths / 10, rounded; halves to the even number."""
    down, rest = divmod(tenths, 10)
    return down + (rest > 5 or (rest == 5 and down % 2 == 1))


@exercise("8.1", "the published totals 2,480 / 2,173 / 252 / 55, and 20 random cases")
def ratio_amounts(answer: Callable) -> None:
    """answer(counts [C], ratio, chosen, least) -> features to add to each class, [C]."""
    random = fresh()
    cifar10 = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    cases = [(cifar10, 2, classes, 5) for classes in (range(10), range(4), range(4, 7), range(7, 10))]
    for _ in range(20):
        counts = torch.randint(3, 600, (whole(5, 9, random),), generator=random).tolist() + [25, 35]
        chosen = torch.randperm(len(counts) - 2, generator=random)[:3].tolist() + [len(counts) - 2, len(counts) - 1]
        cases.append((counts, 1, sorted(chosen), len(cases) % 6 + 1))
    for counts, tenths, chosen, least in cases:
        ratio, places = tenths / 10, range(len(counts))
        rounded = [_round_half_even(tenths * n) for n in counts]
        right = [max(rounded[c], least) if c in chosen else 0 for c in places]
        mistakes = {
            "Classes that were not chosen get `least` features too. They get none.": [
                max(rounded[c], least) if c in chosen else least for c in places
            ],
            "All classes get features; only the chosen ones should.": [max(one, least) for one in rounded],
            "`least` is missing: a rare class with few real features still gets that many.": [
                rounded[c] if c in chosen else 0 for c in places
            ],
            "This cuts the decimals off. Round to the nearest whole number.": [
                max(tenths * counts[c] // 10, least) if c in chosen else 0 for c in places
            ],
            "Halves go to the even number, as Python's own round() does (2.5 becomes 2): yours always go up.": [
                max((tenths * counts[c] + 5) // 10, least) if c in chosen else 0 for c in places
            ],
            "`least` is a lower bound (max), not an upper one (min).": [
                min(rounded[c], least) if c in chosen else 0 for c in places
            ],
            "These are the sizes after the addition; wanted is what is added.": [
                n + more for n, more in zip(counts, right, strict=True)
            ],
        }
        settle(
            answer(list(counts), ratio, list(chosen), least),
            right,
            mistakes,
            f"For the counts {counts[-3:]} (the last three), ratio {ratio} and least = {least}, the chosen ones get "
            "max(round(ratio * n), least), and all others 0.",
        )


@exercise("8.2", "the right number of each class, real features only, drawn with replacement")
def resampled(answer: Callable) -> None:
    """answer(features [N, D], labels [N], amounts [C], seed) -> (features [M, D], labels [M]), M = sum(amounts)."""
    random = fresh()
    for _ in range(5):
        counts = [whole(10, 40, random) for _ in range(4)]
        labels = torch.arange(4).repeat_interleave(torch.tensor(counts))[torch.randperm(sum(counts), generator=random)]
        features = torch.randn(len(labels), 3, generator=random)
        amounts = [0, whole(200, 300, random), whole(1, 5, random), 60]
        made = pieces(answer(features.clone(), labels.clone(), list(amounts), 1), 2, "features and labels")
        added, added_labels = numbers(made[0], "The first result").float(), numbers(made[1], "The second result").long()
        if added.shape != (sum(amounts), 3) or added_labels.shape != (sum(amounts),):
            raise Wrong(
                f"{sum(amounts)} features are asked for and {added.shape[0]} were made. A class may have fewer real features "
                "than it needs: draw *with* replacement, torch.randint instead of a permutation."
            )
        if torch.bincount(added_labels, minlength=4).tolist() != amounts:
            raise Wrong("Class c must get amounts[c] features: the labels of the result do not say so.")
        same = (added[:, None] == features[None]).all(2)
        if not same.any(1).all():
            raise Wrong(
                "Some features are no real ones. This control must bring *nothing new*: no noise, no mixing, or it does not "
                "show what more weight alone would do."
            )
        if (labels[same.float().argmax(1)] != added_labels).any():
            raise Wrong("A feature was drawn from one class and labelled as another: draw within each class.")
        for c in (1, 3):
            used = same[added_labels == c].sum(0)[labels == c]
            if (used.max() - used.min() <= 1 and amounts[c] > 2 * counts[c]) or len(used[used > 0]) == 1 < counts[c]:
                raise Wrong(
                    "Every real feature is repeated equally often (or only one of them): draw by chance, so that the control "
                    "has the random fluctuations that a generator has."
                )
        again, other = (
            pieces(answer(features.clone(), labels.clone(), list(amounts), seed), 2, "features and labels")[0]
            for seed in (1, 2)
        )
        if not torch.equal(numbers(again).float(), added):
            raise Wrong("The same seed gave other features: draw with torch.Generator().manual_seed(seed).")
        if torch.equal(numbers(other).float(), added):
            raise Wrong("Another seed gave the same features: the seed is not used.")


@exercise("8.3", "Bayes' rule holds after 20 random top-ups")
def corrected(answer: Callable) -> None:
    """answer(logits [B, C], counts [C], added [C]) -> logits [B, C] for a balanced test set."""
    random = fresh()
    for trial in range(20):
        classes = whole(3, 7, random)
        counts = torch.randint(5, 900, (classes,), generator=random)
        added = torch.randint(5, 900, (classes,), generator=random)
        if trial % 4 == 3:
            added = counts.max() - counts  # a full top-up: balanced already
        given_class = torch.softmax(torch.randn(classes, 20, generator=random, dtype=torch.float64), 1)
        joint = (counts + added)[:, None] * given_class
        logits = (joint / joint.sum(0)).T.log()
        right = (given_class / given_class.sum(0)).T
        given = numbers(answer(logits.clone(), counts.tolist(), added.tolist()))
        if given.shape != logits.shape:
            raise Wrong(f"Logits of shape {list(logits.shape)} are wanted, the answer has {list(given.shape)}.")
        prior, more = counts.double(), added.double().clamp(min=1e-9)
        wrong = {
            "This takes out the *original* prior. The head was trained on n_c + g_c and has learned that one: what the added "
            "features corrected would be corrected twice.": -prior.log(),
            "Only the added features are counted; the head saw the real ones, too.": -more.log(),
            "The prior is added; it has to be taken out.": (prior + more).log(),
            "Both priors are taken out one after the other. The head has one prior, that of the sums n_c + g_c.": (
                -prior.log() - more.log()
            ),
            "The logits are unchanged; only a full top-up needs no correction.": 0 * prior,
            "The ratio of both sizes is taken out, which is what the top-up changed; wanted is the prior that it left.": (
                prior.log() - (prior + more).log()
            ),
        }
        settle(
            torch.softmax(given, 1),
            right,
            {idea: torch.softmax(logits + change, 1) for idea, change in wrong.items()},
            "The head learned p(c | x) under the prior of what it was *trained* on: subtract log(n_c + g_c), up to a constant.",
        )


@exercise("8.4", "mean and 95 % interval of paired differences, in 20 random comparisons")
def paired(answer: Callable) -> None:
    """answer(ours [n], theirs [n]) -> (mean difference, half of its 95 % interval)."""
    random, means, halves = fresh(), Trials("The mean"), Trials("Half of the interval", rtol=2e-3)  # tables: 3 decimals
    for _ in range(20):
        n = whole(3, 10, random)
        shared = 70 + 3 * torch.randn(n, generator=random, dtype=torch.float64)
        ours, theirs = (shared + torch.randn(n, generator=random, dtype=torch.float64) for _ in range(2))
        d = [a - b for a, b in zip(ours.tolist(), theirs.tolist(), strict=True)]
        mean = sum(d) / n
        squares = sum((one - mean) ** 2 for one in d)
        factor = student(n)
        error = (squares / (n - 1) / n) ** 0.5
        apart = ((ours.var() + theirs.var()) / n).sqrt().item()
        spread = (squares / (n - 1)) ** 0.5
        given = pieces(answer(ours.tolist(), theirs.tolist()), 2, "the mean and half of the interval")
        means.add(
            given[0],
            mean,
            {"The sign is turned round: ours minus theirs is positive when ours is better.": -mean},
            "The mean of the differences ours - theirs, seed by seed.",
        )
        halves.add(
            given[1],
            factor * error,
            {
                "The two methods were treated as independent. They share their seeds: take the differences first, so that what "
                "a seed does to both cancels.": factor * apart,
                "This is the spread of single differences; the error of their *mean* is smaller by sqrt(n).": factor
                * spread,
                "1.96 holds for many seeds. With few the deviation itself is uncertain: student(n) instead.": 1.96
                * error,
                "This is one standard error; the interval reaches student(n) of them to each side.": error,
                "The deviation needs n - 1 in its denominator: the mean was estimated from the same seeds.": (
                    factor * (squares / n / n) ** 0.5
                ),
                "This is the whole width; wanted is half of it.": 2 * factor * error,
            },
            "student(n) times the standard deviation of the differences (n - 1 in the denominator) divided by sqrt(n).",
        )
    means.judge()
    halves.judge()


@exercise("8.5", "two true claims are upheld, and six false ones are seen through")
def verdict(answer: Callable) -> None:
    """answer(results: {method: [accuracy of each seed]}) -> whether "the generated features help" is supported."""
    random = fresh()
    trials = Trials()
    for truth, results in [one for _ in range(3) for one in worlds(random)]:
        said = answer({name: list(values) for name, values in results.items()})
        if not isinstance(said, bool) and not (isinstance(said, Tensor) and said.dtype == torch.bool):
            raise Wrong(f"The verdict is True (supported) or False, not {said!r}.")
        real = [name for name in CONTROLS if name != "Uniform noise"]
        mistakes = {
            "You compared with cross-entropy alone. Retraining and more weight for rare classes come with the method and need "
            "no generated feature: the opponents are the controls.": beats(results, [BASELINE]),
            "You compared with retraining without generation alone. More weight for rare classes could explain the gain: "
            "resampled real features show how much of it.": beats(results, ["No generation"]),
            "The verdict looks at means only. In one of the tables the method is ahead by less than its paired error.": beats(
                results, CONTROLS, errors=False
            ),
            "A true claim was refused: the error was computed as if the methods did not share their seeds. Pair them.": beats(
                results, CONTROLS, together=False
            ),
            "Uniform noise was left out because it is no serious opponent. In one table it wins: then features are not what "
            "helped.": beats(results, real),
            "You compared with resampled real features alone. Each control takes away one other explanation; all must be "
            "beaten.": beats(results, ["Resampled real"]),
            "Beating one control is not enough: the claim must survive the *best* of them.": any(
                beats(results, [name]) for name in CONTROLS
            ),
            "Every claim was believed.": True,
            "Every claim was refused; two of them are good ones.": False,
        }
        trials.add(
            float(said),
            float(truth),
            {idea: float(claim) for idea, claim in mistakes.items()},
            "Take the paired differences between the method and each control; the claim stands if every one of them is larger "
            "than half of its 95 % interval.",
        )
    trials.judge()
