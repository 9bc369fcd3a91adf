"""What a host pool hands out, and where it ends."""

import pytest

from profiles.schema.errors import SwapplanError
from runtime.host.host_pool import HostPool

MIB = 1 << 20


def test_the_pool_hands_out_only_its_own_bytes() -> None:
    pool = HostPool(100)
    pool.stretch(60, 40)
    with pytest.raises(ValueError, match="outside the pool"):
        pool.stretch(61, 40)
    with pytest.raises(ValueError, match="outside the pool"):
        HostPool(0).stretch(0, 1)


def test_a_pool_larger_than_the_host_is_refused() -> None:
    with pytest.raises(SwapplanError, match="plan solve --host-budget"):
        HostPool(1 << 60)
