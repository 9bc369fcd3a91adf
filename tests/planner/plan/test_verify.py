"""A plan that is broken is refused, and one that fits another profile is seen."""

from typing import Any

import pytest

from planner.plan.device_memory import planned_bytes
from planner.plan.plan import Plan
from planner.plan.verify import verified
from planner.studies.check import first_fault_against
from profiles.schema.errors import FileError
from tests.support.planning.one_swap import one_swap, one_swap_plan
from tests.support.planning.toys import activation, fixed, toy


def edited(plan: Plan, **fields: Any) -> Plan:
    """A plan with some fields changed, unverified."""
    return plan.model_copy(update=fields)


def test_a_broken_plan_is_refused() -> None:
    with pytest.raises(FileError, match="the plan is broken: slots"):
        verified(edited(one_swap_plan(), budget_bytes=5))


def test_a_plan_fits_its_own_profile_and_no_other() -> None:
    plan, profile = one_swap_plan(), one_swap()
    assert first_fault_against(plan, profile) is None
    other = toy(10, 10, 10, 10, 9, storages=[activation("pack:x", 6, 0, 4), fixed("w", 6, 2)])
    assert "profile_fingerprint" in str(first_fault_against(plan, other))
    forged = edited(plan, profile_fingerprint=other.fingerprint())
    assert "slots[4].duration_us is 10.0" in str(first_fault_against(forged, other))
    forged = edited(plan, without_checkpointing=True)
    assert "without_checkpointing is True" in str(first_fault_against(forged, profile))


def test_a_storage_is_not_away_when_it_is_used() -> None:
    # The same slots and storages, but x is used in slot 3 as well, where the plan has it away.
    plan = one_swap_plan()
    assert planned_bytes(plan)[2] == 6
    used = toy(*[10] * 5, storages=[activation("pack:x", 6, 0, 3, 4), fixed("w", 6, 2)])
    forged = edited(plan, profile_fingerprint=used.fingerprint())
    assert "inside none of its gaps" in str(first_fault_against(forged, used))
