"""Each floor offers its public names, and no others."""

from types import ModuleType

import pytest

import planner
import profiles
import runtime


@pytest.mark.parametrize("floor", [profiles, planner, runtime])
def test_public_names_are_found_where_they_are_at_home(floor: ModuleType) -> None:
    assert all(getattr(floor, name).__name__ == name for name in floor.__all__)
    with pytest.raises(AttributeError, match=f"module '{floor.__name__}' has no attribute 'nam'"):
        floor.nam  # noqa: B018
