"""What the proof of a plan showed."""

from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, kw_only=True)
class ProofReport:
    """What two trainings showed. Everything is measured, unless its name says otherwise.

    Attributes:
        losses: The losses without the plan.
        repeats: Two trainings without the plan have the same numbers; if not, differences say
            nothing of the plan.
        losses_equal: The losses with the plan are the same, bit by bit.
        tensors_equal: So are all parameters, buffers, gradients and optimizer states at the end.
        tensors_compared: Their number.
        peak_without_bytes: Peak device bytes without the plan.
        peak_with_bytes: Peak device bytes with it.
        peak_planned_bytes: The peak the plan announces.
        out_of_memory_without_plan: The training without the plan, given the budget, ran out of
            memory.
        out_of_memory_message: What it said.
        step_without_us: Times of the timed steps without the plan.
        step_with_us: Times of the timed steps with it.
        profiled_step_us: Step time without the plan when the profile was recorded.
        simulated_step_us: The step time the plan announces (simulated).
        d2h_bytes: Bytes copied to the host per timed step.
        h2d_bytes: Bytes copied back per timed step.
        rebuilt_bytes: Bytes of dropped storages filled again per timed step.
        ops_run_again: Ops run again for that.
        rebuild_us: Median time of the host for that per timed step.
        recompute_us: The time the plan announces for it (simulated).
        capture_us: Median time of the host for noting those ops per timed step.
        stall_us: Median wait for copies per timed step; None where the host does not see it.
        simulated_stall_us: The stall the plan announces (simulated).
        overrun_us: Median, per timed step, of how much longer copies took than on the link; None
            where the host does not see it.
        misses: Ops that asked for a storage the plan had away.
        fallbacks: Steps that fell back to resident.
        shortcuts: Steps that skipped an update, as a loss scaler has it.
        memory_differences: For each watched step whose memory was not the planned one in every
            slot, where it first differed.
        memory_compared_steps: Watched steps whose memory was compared: those that found all that
            the plan moves.
        warnings: Why.
        resident_growth_without_bytes: Growth of the anonymous resident set without it, sampled.
        resident_growth_with_bytes: The same with the plan; the host pool is apart. Both are 0 where
            the device's memory is not the host's.
        summary: All steps with the plan in one line.
        without_checkpointing: The plan, and the profile, are for steps in which the model's own
            checkpointing is switched off; without the plan it is kept.
    """

    losses: tuple[float, ...]
    repeats: bool
    losses_equal: bool
    tensors_equal: bool
    tensors_compared: int
    budget_bytes: int
    peak_without_bytes: int
    peak_with_bytes: int
    peak_planned_bytes: int
    out_of_memory_without_plan: bool
    out_of_memory_message: str
    step_without_us: tuple[float, ...]
    step_with_us: tuple[float, ...]
    profiled_step_us: float
    simulated_step_us: float
    d2h_bytes: int
    h2d_bytes: int
    rebuilt_bytes: int
    ops_run_again: int
    rebuild_us: float
    recompute_us: float
    capture_us: float
    stall_us: float | None
    simulated_stall_us: float
    overrun_us: float | None
    misses: int
    fallbacks: int
    shortcuts: int
    memory_differences: tuple[str, ...]
    memory_compared_steps: int
    warnings: tuple[str, ...]
    resident_growth_without_bytes: int
    resident_growth_with_bytes: int
    host_pool_bytes: int
    summary: str
    without_checkpointing: bool = False

    @property
    def budget_held(self) -> bool:
        """Whether the peak under the plan stayed within the budget."""
        return self.peak_with_bytes <= self.budget_bytes

    @property
    def passed(self) -> bool:
        """Whether the numbers are equal, the budget held, and every step was replayed."""
        equal = self.losses_equal and self.tensors_equal
        replayed = self.fallbacks == 0 and not self.is_another_step
        return equal and self.budget_held and replayed

    @property
    def is_another_step(self) -> bool:
        """Whether every step skipped an update; the first may make what the plan moves."""
        return self.shortcuts > 0 and self.shortcuts >= len(self.losses) - 1

    @property
    def step_ratio(self) -> float:
        """Median measured step time with the plan over the simulated one."""
        return median(self.step_with_us) / self.simulated_step_us

    @property
    def drift(self) -> float:
        """How much slower this machine computes now than when the profile was recorded.

        It is part of `step_ratio` and no fault of the plan.
        """
        return median(self.step_without_us) / self.profiled_step_us
