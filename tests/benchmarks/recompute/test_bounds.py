"""The benchmark of bounds on recompute and stall in small."""

from dataclasses import replace

from tests.benchmarks.recompute.bounds import found, summary


def test_no_bound_is_above_the_least() -> None:
    rows = [*found(range(40))]
    assert len(rows) > 3
    assert not any(row.is_broken for row in rows)
    assert summary(rows).startswith(f"{len(rows)} steps, recompute helps in ")
    broken = replace(rows[0], tight_us=rows[0].least_us + 1)
    assert broken.is_broken
    assert "; 1 bounds above the least; " in summary([broken, *rows[1:]])
    assert broken.cells()[0] == str(broken.seed)
