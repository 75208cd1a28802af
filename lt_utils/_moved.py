"""What earlier commands are called now: python -m lt_utils.batch, say, answers in one sentence."""

import sys

COMMANDS = {
    "batch": "course run",
    "execute": "course run",
    "exercises": "course exercises",
    "gates": "course check",
    "keep": "course keep",
    "readme": "course readme",
    "refresh": "course refresh",
    "official": "experiments.published_encoders",
    "cause": "experiments.feature_gap",
    "imagenet_lt": "experiments.imagenet_lt",
}


def answer(arguments: list[str]) -> None:
    """End this process with status 2 if it was started as an earlier command; `arguments` are those of the interpreter."""
    name = arguments[arguments.index("-m") + 1] if "-m" in arguments[:-1] else ""
    package, _, command = name.partition(".")
    if package == "lt_utils" and command in COMMANDS:
        print(f"python -m {name} is now python -m {COMMANDS[command]}, with the same arguments.", file=sys.stderr)
        sys.exit(2)
