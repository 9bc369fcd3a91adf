"""The workloads that are checked and compared, and how each of them grows."""

from dataclasses import dataclass

from profiles.schema.profile import WorkloadSource


@dataclass(frozen=True, kw_only=True)
class Case:
    """A workload at one size, and larger ones.

    Attributes:
        reference: Name of a built-in workload.
        settings: Its settings.
        budget_share: The budget, as a share of the peak with nothing done.
        grows: The setting that makes it larger.
        values: The values of that setting to try, in ascending order.
    """

    reference: str
    settings: tuple[tuple[str, str], ...]
    budget_share: float
    grows: str
    values: tuple[int, ...]

    @property
    def title(self) -> str:
        """The workload and its settings."""
        return " ".join([self.reference, *(f"{key}={value}" for key, value in self.settings)])

    def source(self, **changes: str) -> WorkloadSource:
        """Returns the workload, with some settings changed."""
        settings = {**dict(self.settings), **changes}
        return WorkloadSource(reference=self.reference, settings=tuple(settings.items()), seed=0)


def _case(reference: str, share: float, grows: str, values: range, **settings: str) -> Case:
    return Case(
        reference=reference,
        settings=tuple(settings.items()),
        budget_share=share,
        grows=grows,
        values=tuple(values),
    )


CHECKED = (
    _case("unet3d", 0.5, "size", range(96, 97), size="96"),
    _case("resnet50", 0.6, "batch", range(32, 33), resolution="224", batch="32"),
    _case("vit", 0.6, "batch", range(32, 33), size="base", resolution="224", batch="32"),
    _case("gpt2", 0.6, "batch", range(8, 9), size="small", sequence="512", batch="8"),
    _case("bert", 0.6, "batch", range(16, 17), size="base", sequence="256", batch="16"),
    _case("llama", 0.7, "batch", range(8, 9), size="tiny", sequence="1024", batch="8"),
)
"""Every built-in workload, each done in well under a minute on a GPU."""

COMPARED = (
    _case("unet3d", 0.5, "size", range(128, 193, 16), size="128"),
    _case("gpt2", 0.6, "batch", range(8, 65, 4), size="medium", sequence="1024", batch="8"),
    _case("resnet50", 0.6, "batch", range(128, 1025, 64), resolution="224", batch="128"),
    _case("vit", 0.6, "batch", range(64, 513, 32), size="large", resolution="224", batch="64"),
    _case("llama", 0.7, "batch", range(2, 33, 2), size="1b", sequence="2048", batch="2"),
)
"""Large enough that a GPU is busy, small enough that a recording fits without a plan."""

TINY = (
    _case("unet3d", 0.8, "batch", range(1, 3), size="32", features="4", batch="1"),
    _case("gpt2", 0.8, "batch", range(2, 4), size="tiny", sequence="32", batch="2"),
)
"""Small enough that every code path runs in a test on the CPU."""
