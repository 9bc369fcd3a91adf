"""Each wait, event and order that is taken out of the runtime is noticed."""

import gc
from functools import cache

import pytest

from profiles.hooks.mode_stack import call_modes, leave_calls, leave_ops, op_modes
from tests.device.mutations import MUTATIONS
from tests.device.scenarios import faults

SEED = 2


@pytest.mark.parametrize("name", MUTATIONS)
def test_it_is_noticed(name: str) -> None:
    mutation = MUTATIONS[name]
    assert unbroken(mutation.seen_in) == []
    with pytest.MonkeyPatch.context() as patch:
        mutation.take_out(patch)
        found = _faults(mutation.seen_in)
    print(f"{name}: {'; '.join(found)}")
    assert found, "nothing noticed it: a wait that is not needed, or a scenario that is missing"


@cache
def unbroken(scenario: str) -> list[str]:
    return faults(scenario, SEED, limited=False)


def _faults(scenario: str) -> list[str]:
    try:
        # What was broken before may still hold memory.
        return faults(scenario, SEED, limited=False)
    except Exception as error:
        return [f"it raised {type(error).__name__}: {error}"]
    finally:
        # What has been broken may leave anything behind.
        for mode in op_modes():
            leave_ops(mode)
        for call_mode in call_modes():
            leave_calls(call_mode)
        gc.collect()
