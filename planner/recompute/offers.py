"""What recompute offers to a problem: gaps that could be ended by running ops again."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from planner.problem.problem import Problem
from planner.recompute.recipes import StepEffects, recipe_for
from planner.recompute.rewriting import MAX_RECIPE_OPS, rebuildings
from profiles.schema.profile import StorageKind


@dataclass(frozen=True)
class Offers:
    """Recipes for gaps.

    Attributes:
        least_ops: By index of a whole gap: the ops that run again wherever in the gap it is
            rebuilt, whatever else is rebuilt or kept.
        op_us: By op: its time.
    """

    least_ops: Mapping[int, frozenset[int]] = field(default_factory=dict)
    op_us: Mapping[int, float] = field(default_factory=dict)

    def only(self, gaps: Iterable[int]) -> "Offers":
        """Returns what is offered for some of the gaps."""
        least_ops = {i: self.least_ops[i] for i in gaps if i in self.least_ops}
        ops = {op for offered in least_ops.values() for op in offered}
        return Offers(least_ops, {op: us for op, us in self.op_us.items() if op in ops})


NO_OFFERS = Offers()


def offers_of(effects: StepEffects, problem: Problem) -> Offers:
    """Returns what can be rebuilt: activations that a recipe fills again at the end of a gap."""
    storages = effects.profile.storages
    least_ops: dict[int, frozenset[int]] = {}
    for i, gap in enumerate(problem.whole_gaps):
        kind = storages[gap.storage].kind
        if kind is not StorageKind.ACTIVATION or problem.wraps(gap):
            continue
        if rebuildings(effects, [gap]) is None:
            continue
        # What is alive at its end is so at its begin: no place in the gap needs fewer ops.
        least = recipe_for(
            effects,
            gap.first_slot,
            [(gap.storage, effects.first_op[gap.first_slot])],
            absent={},
            max_ops=MAX_RECIPE_OPS,
        )
        if least is not None:
            least_ops[i] = frozenset(least.ops)
    ops = {op for offered in least_ops.values() for op in offered}
    return Offers(least_ops, {op: effects.profile.ops[op].duration_us for op in sorted(ops)})
