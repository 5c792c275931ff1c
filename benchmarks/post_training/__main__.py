"""`make bench-post-training ARGS="--seeds 5"`: recall, false alarms, steps to "no signal"."""

from __future__ import annotations

import argparse
import logging
import os
from statistics import mean

os.environ.setdefault("TRAINVITALS_REPORT", "off")

from post_training.bench import RULES, is_found, measure_faults, measure_healthy
from post_training.faults import FAULTS, NO_SIGNAL


def main() -> None:
    parser = argparse.ArgumentParser(description="Detection of post-training faults.")
    parser.add_argument("--seeds", type=int, default=5)
    logging.getLogger("trainvitals").setLevel(logging.ERROR)
    seeds = range(parser.parse_args().seeds)
    faults, healthy = measure_faults(seeds), measure_healthy(seeds)
    print("| fault | found | first alert after steps | all alarms |\n| --- | --- | --- | --- |")
    for name, outcomes in faults.items():
        hits = [o for o in outcomes if is_found(name, o)]
        first = [min(n for r, n in o.alarms.items() if r in FAULTS[name].rules) for o in hits]
        others = ", ".join(sorted({r for o in outcomes for r in o.alarms}))
        steps = f"{min(first)} to {max(first)}" if first else "–"
        print(f"| {name} | {len(hits)} of {len(outcomes)} | {steps} | {others} |")
    runs = [(name, o) for name, outcomes in healthy.items() for o in outcomes]
    flagged = [(n, sorted(o.alarms)) for n, o in runs if o.alarms]
    ours = [n for n, rules in flagged if RULES & set(rules)]
    found = sum(is_found(n, o) for n, outcomes in faults.items() for o in outcomes)
    total = sum(map(len, faults.values()))
    late = [
        o.alarms.get(NO_SIGNAL, 10**9)
        for n, outcomes in faults.items()
        if FAULTS[n].rules == {NO_SIGNAL}
        for o in outcomes
    ]
    print(f"\nRecall: {found} of {total}. Steps to no_signal: at most {max(late)}.")
    print(
        f"Healthy runs: {len(runs)}; flagged by a rule of post-training: {len(ours)}, by any rule: "
        f"{len(flagged)}."
    )
    gains = mean(o.last_reward - o.first_reward for _, o in runs)
    print(f"Mean rise of the reward in healthy runs: {gains:.2f}.")
    for name, rules in flagged:
        print(f"- {name}: {', '.join(rules)}")


if __name__ == "__main__":
    main()
