"""The colours of every picture: those of Okabe and Ito, Color Universal Design.

Readers with any kind of colour vision tell them apart. Where two of them stand for two things,
something else differs too (dashes, markers, place), for print without colour.
"""

from collections.abc import Mapping
from types import MappingProxyType

from profiles.profile import StorageKind

ORANGE = "#E69F00"
SKY = "#56B4E9"
GREEN = "#009E73"
YELLOW = "#F0E442"
BLUE = "#0072B2"
VERMILION = "#D55E00"
PURPLE = "#CC79A7"
GREY = "#8C8C8C"
BLACK = "#000000"

WITHOUT_PLAN = ORANGE
WITH_PLAN = BLUE

COMPUTE = GREY
STALL = VERMILION
D2H = BLUE
H2D = GREEN

KINDS: Mapping[str, str] = MappingProxyType(
    {
        StorageKind.PARAMETER.value: BLUE,
        StorageKind.BUFFER.value: PURPLE,
        StorageKind.OPTIMIZER_STATE.value: GREEN,
        StorageKind.GRADIENT.value: VERMILION,
        StorageKind.ACTIVATION.value: SKY,
        StorageKind.INPUT.value: YELLOW,
        StorageKind.TEMPORARY.value: ORANGE,
    }
)
"""By the word for a kind of storage."""

MANY = (BLUE, VERMILION, GREEN, PURPLE, SKY, ORANGE)
"""For lines that have no colour of their own, in this order."""
