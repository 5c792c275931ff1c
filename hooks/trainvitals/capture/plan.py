"""What is measured: the rows of the matrices, and the tensors behind them.

Comes in: the models and the optimizers. Goes out: groups of parameters for the backends, and the
places of the rows. Built when the set of parameters changes; a step that was begun keeps its plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from operator import attrgetter

from torch import Tensor, nn
from torch.optim import Optimizer

from trainvitals.capture.backends import Group, groups_of
from trainvitals.capture.backends.members import Member
from trainvitals.capture.reasons import NO_NORM, NORM_OF_SHARDS
from trainvitals.capture.step import Step
from trainvitals.structure.order import ModuleFacts
from trainvitals.structure.parameters import (
    DTYPES,
    Parameter,
    Sharding,
    local_of,
    optimized_ids,
    parameters_of,
    place_of,
    reason_not_measured,
    sharding_of,
)
from trainvitals.wire import Place, Scalar

_IS_TRAINED = attrgetter("requires_grad")
FactsOf = Callable[[nn.Module | None], ModuleFacts | None]


class CapturePlan:
    """The parameters that are measured, in the order of their rows.

    `groups[id(optimizer)]` are the parameters of an optimizer; the first optimizer also has those
    that belong to none, and `groups[None]` are all of them, in a run without a torch optimizer.
    """

    def __init__(
        self,
        parameters: Sequence[Parameter],
        first: FirstValues,
        sharding: Sharding | None = None,
    ) -> None:
        self.parameters = list(parameters)
        self.places: tuple[Place, ...] = ()
        self.groups: dict[int | None, list[Group]] = {}
        self.frozen_is_known = False
        """Whether the frozen weights were measured: they do not change."""
        self._first = first
        self._tensors = [p.tensor for p in parameters]
        self._members = [Member(tensor, i) for i, tensor in enumerate(self._tensors)]
        self.grouping: object = None
        """By what the parameters are grouped; it changes when a parameter is frozen or moved."""
        self.sharding = sharding
        self._known: object = None

    def __len__(self) -> int:
        return len(self.parameters)

    def has_rows_of(self, parameters: Sequence[Parameter]) -> bool:
        """Whether the rows are these parameters."""
        return _identities(self.parameters) == _identities(parameters)

    def new_step(self) -> Step:
        """Return a step with the rows of this plan."""
        if self.sharding is None:
            return Step(len(self))
        replicas = self.sharding.replicas
        name = Scalar.GRADIENT_NORM_OF_SHARDS if replicas else ""
        return Step(len(self), norm_name=name, replicas=max(1, replicas))

    def group(self, optimizers: Sequence[Optimizer]) -> None:
        """Group the parameters by optimizer, if one was frozen or an optimizer changed."""
        trained = list(map(_IS_TRAINED, self._tensors))
        held = [[list(map(id, g["params"])) for g in o.param_groups] for o in optimizers]
        known = trained, [id(o) for o in optimizers], held
        if self._known == known:
            return  # on every full step: sets are made only when something changed
        self._known = known
        sets = [(id(o), optimized_ids([o])) for o in optimizers]
        if self.grouping == (trained, sets):
            return
        self.grouping = trained, sets
        self.frozen_is_known = False
        for member in self._members:
            member.first = self._first.of(member)
        self.release()
        self.groups = {}
        for i, (owner, mine) in enumerate(sets):
            others = set[int]().union(*(ids for other, ids in sets if other != owner))
            self.groups[owner] = groups_of(
                [
                    m
                    for m in self._members
                    if id(m.parameter) in mine or (i == 0 and id(m.parameter) not in others)
                ]
            )
        if not optimizers:
            self.groups[None] = groups_of(self._members)

    def describe(self, facts_of: FactsOf, optimized: Set[int] | None) -> None:
        """Write `places`; `optimized`: ids of tensors, None if unknown."""
        self.places = tuple(
            place_of(p, facts_of(p.owner), optimized=optimized is None or id(p.tensor) in optimized)
            for p in self.parameters
        )

    def release(self) -> None:
        """Release the copies of weights."""
        for groups in self.groups.values():
            for group in groups:
                group.release()


def _identities(parameters: Sequence[Parameter]) -> list[tuple[object, ...]]:
    return [
        (p.name, id(p.tensor), id(local_of(p.tensor)), p.tensor.shape, tuple(p.aliases))
        for p in parameters
    ]


class FirstValues:
    """Copies of the one-dimensional parameters at their first measurement, for their drift."""

    def __init__(self) -> None:
        self._values: dict[int, tuple[Tensor, Tensor]] = {}

    def of(self, member: Member) -> Tensor | None:
        """Return the first value of a trained one-dimensional parameter; None for others."""
        tensor = member.tensor
        if tensor.dim() != 1 or not member.is_trained:
            return None
        known, value = self._values.get(id(tensor), (None, None))
        if known is not tensor or value is None or value.shape != tensor.shape:
            value = tensor.detach().clone()
            self._values[id(tensor)] = tensor, value
        return value


class Planner:
    """Finds the parameters of the models, and makes a new plan when they change."""

    def __init__(self, models: Mapping[str, nn.Module], report: Callable[[str, str], None]) -> None:
        self.plan: CapturePlan | None = None
        self._models = models
        self._report = report
        self._reported: set[str] = set()
        self._first = FirstValues()

    def update(self, optimizers: Sequence[Optimizer]) -> CapturePlan:
        """Search the models again, and return the plan."""
        parameters = self._find()
        if self.plan is None or not self.plan.has_rows_of(parameters):
            if self.plan is not None:
                self.plan.release()
            sharding = sharding_of(self._models)
            self.plan = CapturePlan(parameters, self._first, sharding)
            if sharding is not None:
                part = NORM_OF_SHARDS if sharding.replicas else NO_NORM
                self._report("gradient_norm", part.format(sharding.description))
        self.plan.group(optimizers)
        return self.plan

    def _find(self) -> list[Parameter]:
        found: Iterable[Parameter] = parameters_of(self._models).values()
        kept = []
        for parameter in found:
            reason = reason_not_measured(local_of(parameter.tensor))
            if reason is None:
                kept.append(parameter)
            elif parameter.name not in self._reported:
                self._reported.add(parameter.name)
                if parameter.tensor.requires_grad and parameter.tensor.dtype not in DTYPES:
                    reason += "; the gradient norm does not include it"
                self._report(parameter.name, reason)
        return kept
