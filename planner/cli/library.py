"""`plan library`: the profiles that come with the project."""

from planner.cli.output import print_table
from planner.cli.quantity import size_text, time_text


def library() -> None:
    """Lists the profiles that come with the project."""
    from profiles.library.index import PREFIX, read_index

    entries = read_index().entries
    numbers = ("peak", "device", "step", "ops")
    print_table(
        "Library: peak without a plan, the device's memory, and time of a step",
        ("profile", *numbers, "times are", "made by"),
        [
            (
                f"{PREFIX}{entry.name}",
                size_text(entry.peak_bytes),
                size_text(entry.device_bytes),
                time_text(entry.step_us),
                str(entry.ops),
                entry.times.value,
                entry.command,
            )
            for entry in entries
        ],
        right=numbers,
    )
    print(
        "A profile's name goes where a profile file goes: "
        f"plan solve {PREFIX}NAME --budget 60% -o my.plan.json"
    )
