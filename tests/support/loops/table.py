"""What came of each loop that was tried, as a table at the end of the tests' output."""

from collections.abc import Iterable

LOOP = "loop"
"""The property of a test's report that holds its row."""
COLUMNS = ("loop", "recorded", "replayed", "bit-equal", "fell back", "lines to add")


def table_of(reports: Iterable[object]) -> list[str]:
    """Returns the lines of the table; none if no loop was tried."""
    rows = sorted(
        row
        for report in reports
        for name, row in getattr(report, "user_properties", ())
        if name == LOOP
    )
    if not rows:
        return []
    widths = [max(map(len, column)) for column in zip(COLUMNS, *rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (COLUMNS, *rows)
    ]
