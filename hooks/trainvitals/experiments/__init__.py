"""Compare short trainings that differ in one choice: initialisation, loss or learning rate.

Comes in: a factory of models, data, the choices. Goes out: a `Result` with one row per choice.
Promise:  every choice gets the same seeds, the same order of the data and the same held-out part;
          a choice is called the best only if a paired test over the seeds proves it; the random
          states of the caller are unchanged.
Start at `experiment.experiment`; `trial.run_trial` is one training.
"""

from trainvitals.experiments.experiment import experiment
from trainvitals.experiments.result import Result, Row

__all__ = ["Result", "Row", "experiment"]
