import pytest

from profiles.schema.errors import QuantityError
from profiles.schema.units import (
    parse_budget_bytes,
    parse_rate_bytes_per_us,
    parse_size_bytes,
    rate_text,
    size_text,
    time_text,
)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("8GiB", 8 * 2**30),
        ("512MB", 512 * 10**6),
        ("1.5e9", 1_500_000_000),
        ("1_000", None),
        ("1000", 1000),
        ("12 GB", 12 * 10**9),
        (" 3 kB ", 3000),
        ("3KB", 3000),
        ("0.5KiB", 512),
        ("1B", 1),
        ("1.9", 1),
        (".5TiB", 2**39),
    ],
)
def test_sizes(text: str, size_bytes: int | None) -> None:
    if size_bytes is None:
        with pytest.raises(QuantityError):
            parse_size_bytes("--budget", text)
    else:
        assert parse_size_bytes("--budget", text) == size_bytes


@pytest.mark.parametrize(
    ("text", "budget_bytes"),
    [("60%", 600), ("100%", 1000), ("150 %", 1500), ("12.55%", 125), ("70", 70), ("1KiB", 1024)],
)
def test_budgets(text: str, budget_bytes: int) -> None:
    assert parse_budget_bytes("--budget", text, 1000) == budget_bytes


@pytest.mark.parametrize(
    ("text", "bytes_per_us"),
    [("12GB/s", 12_000.0), ("12 GB/s", 12_000.0), ("1MB/s", 1.0), ("1MiB/s", 1.048576)],
)
def test_rates(text: str, bytes_per_us: float) -> None:
    assert parse_rate_bytes_per_us("--d2h-bandwidth", text) == pytest.approx(bytes_per_us)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "GiB",
        "-1GiB",
        "0",
        "0GiB",
        "nan",
        "inf",
        "1e999GB",
        "8 Gi B",
        "8GiB/s",
        "a lot",
        "1.2.3",
    ],
)
def test_what_is_no_budget_says_what_one_is(text: str) -> None:
    with pytest.raises(QuantityError) as refused:
        parse_budget_bytes("--budget", text, 1000)
    assert f"--budget is {text!r}" in str(refused.value)
    assert "such as 8GiB" in str(refused.value)
    assert "60%" in str(refused.value)


@pytest.mark.parametrize("text", ["8Gb", "8gib", "8G", "8 parsecs"])
def test_an_unknown_unit_says_the_units(text: str) -> None:
    with pytest.raises(QuantityError, match=r"there is no unit '.*' here.*Units: B, kB, KB, MB"):
        parse_size_bytes("--host-budget", text)


@pytest.mark.parametrize("text", ["12", "12GB", "12/s", "12Gb/s", "-1GB/s", "0GB/s", "1e999GB/s"])
def test_what_is_no_rate_says_what_one_is(text: str) -> None:
    with pytest.raises(QuantityError, match="expected a rate above 0 such as 12GB/s"):
        parse_rate_bytes_per_us("--d2h-bandwidth", text)


def test_a_share_is_no_size() -> None:
    with pytest.raises(QuantityError, match="there is no unit '%' here"):
        parse_size_bytes("--host-budget", "50%")


def test_quantities_are_written_readably() -> None:
    assert [size_text(n) for n in (0, 1023, 1024, 3 * 2**29)] == [
        "0 B",
        "1023 B",
        "1.00 KiB",
        "1.50 GiB",
    ]
    rates = [rate_text(rate) for rate in (12_000.0, 1.5, 0.01, 1e-7)]
    assert rates == ["12.00 GB/s", "1.50 MB/s", "10.00 kB/s", "0.1 B/s"]
    assert [time_text(us) for us in (7.0, 45_600.0, 3.21e6)] == ["7 us", "45.6 ms", "3.21 s"]
