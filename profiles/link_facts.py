"""What is known of a link, figure by figure, each with the place it was read. Needs no torch."""

from dataclasses import dataclass

from profiles.profile import Link
from profiles.sharing import Figure, Sharing


@dataclass(frozen=True, kw_only=True)
class LinkFacts:
    """A link of the table: what a plan is made with, and what that rests on.

    Attributes:
        link: The record that goes into profiles and plans; its rates are those below.
        theory: Rate of one direction by the standard or the data sheet.
        d2h: Rate from device to host that somebody measured.
        h2d: Rate from host to device that somebody measured.
        both: Rate of both directions together while both run; None if no source was read.
        sharing: What workers share on the machine that the figures come from; None if unknown.
    """

    link: Link
    theory: Figure
    d2h: Figure
    h2d: Figure
    both: Figure | None
    sharing: Sharing | None

    @property
    def figures(self) -> tuple[tuple[str, Figure], ...]:
        """Every rate that is known, with its name."""
        memory = self.sharing.memory if self.sharing else None
        named = (
            ("in theory, each way", self.theory),
            ("to the host", self.d2h),
            ("from the host", self.h2d),
            ("both ways together", self.both),
            ("memory of a socket", memory),
        )
        return tuple((name, figure) for name, figure in named if figure is not None)
