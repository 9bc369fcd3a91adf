"""Each wait, event and order that is taken out of the runtime is noticed."""

from functools import cache

import pytest

from tests.device.mutations import MUTATIONS, noticed_faults
from tests.device.scenarios import faults

SEED = 2


@pytest.mark.parametrize("name", MUTATIONS)
def test_it_is_noticed(name: str) -> None:
    mutation = MUTATIONS[name]
    assert unbroken(mutation.seen_in) == []
    found = noticed_faults(mutation, SEED)
    print(f"{name}: {'; '.join(found)}")
    assert found, "nothing noticed it: a wait that is not needed, or a scenario that is missing"


@cache
def unbroken(scenario: str) -> list[str]:
    return faults(scenario, SEED, limited=False)
