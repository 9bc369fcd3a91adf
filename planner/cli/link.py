"""Which link a command means: one of the table, or rates of the user's own."""

from profiles.hardware.links import CUSTOM, MEASURED, link_named
from profiles.schema.errors import QuantityError
from profiles.schema.profile import CUDA, Link, Provenance
from profiles.schema.units import parse_rate_bytes_per_us


def is_to_be_measured(device: str, name: str | None, d2h: str | None, h2d: str | None) -> bool:
    """Whether the options ask for the rates of the link at hand.

    A real device has one; of the emulated device's link the user decides.
    """
    if d2h is not None or h2d is not None:
        return False
    return name == MEASURED or (name is None and device == CUDA)


def choose_link(default: Link, name: str | None, d2h: str | None, h2d: str | None) -> Link:
    """Returns the link that the options name.

    Args:
        default: Used if there are no options; a custom link takes its time per copy from it.
        name: `--link`.
        d2h: `--d2h-bandwidth`. A rate given alone counts for both directions.
        h2d: `--h2d-bandwidth`.

    Raises:
        QuantityError: No such link, an unreadable rate, or both a name and a rate.
    """
    if d2h is None and h2d is None:
        return default if name is None else link_named(name)
    if name is not None:
        raise QuantityError(
            f"--link {name} sets the rates already. Give --link, or --d2h-bandwidth and "
            "--h2d-bandwidth."
        )
    rates = [
        parse_rate_bytes_per_us(option, text)
        for option, text in (("--d2h-bandwidth", d2h), ("--h2d-bandwidth", h2d))
        if text is not None
    ]
    return Link(
        name=CUSTOM,
        d2h_bytes_per_us=rates[0],
        h2d_bytes_per_us=rates[-1],
        both_bytes_per_us=None,
        latency_us=default.latency_us,
        engines=(),
        provenance=Provenance.NOMINAL,
    )
