"""The rhythm in which the steps of a loop differ, and what comes next by it."""

from collections import deque

MOST_PERIOD = 32
"""Steps after which a rhythm begins again, at most."""
KEPT_STEPS = 3 * MOST_PERIOD
LEAST_REPEATED = 2
"""Steps in a row that were as a rhythm has it, before it is believed."""


class Rhythm:
    """What steps were like, one after the other."""

    def __init__(self) -> None:
        """There were none yet."""
        self._past: deque[str] = deque(maxlen=KEPT_STEPS)

    def add(self, what: str) -> None:
        """Notes what a step was like."""
        self._past.append(what)

    def next(self) -> str:
        """Returns what the next one will be like, if they come in a rhythm; else nothing.

        It is the shortest period of those that the most steps in a row have kept to, up to now and
        for at least a whole period.
        """
        past = tuple(self._past)
        best_period, longest = 0, LEAST_REPEATED - 1
        for period in range(1, min(MOST_PERIOD, len(past) // 2) + 1):
            repeated = _repeated(past, period)
            if repeated > longest and repeated >= period:
                best_period, longest = period, repeated
            if repeated == len(past) - period:
                # A longer one can have been kept to by no more steps.
                break
        return past[-best_period] if best_period else ""


def _repeated(past: tuple[str, ...], period: int) -> int:
    """Returns how many of the last steps were as those one period before."""
    pairs = zip(reversed(past), reversed(past[:-period]), strict=False)
    for count, (step, before) in enumerate(pairs):
        if step != before:
            return count
    return len(past) - period
