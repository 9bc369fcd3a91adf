"""How each profile of the library is made. Needs no torch."""

from dataclasses import dataclass

from profiles.schema.profile import WorkloadSource


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One profile of the library.

    Attributes:
        name: What follows `library:`.
        source: The training step.
        device: The device it is estimated for.
    """

    name: str
    source: WorkloadSource
    device: str

    @property
    def command(self) -> str:
        """What makes the file again, without its `-o`."""
        settings = "".join(f" --set {key}={value}" for key, value in self.source.settings)
        return f"plan profile {self.source.reference} --device {self.device}{settings}"


V100_16, V100_32, A100, H200 = "v100-16gb", "v100-32gb", "a100-80gb", "h200"


def _recipe(step: str, device: str, reference: str, **settings: str) -> Recipe:
    source = WorkloadSource(reference=reference, settings=tuple(settings.items()), seed=0)
    return Recipe(name=f"{step}-{device}", source=source, device=device)


# Each step is as large as makes its device too small, by a few percent or by a factor of two: the
# sizes are the paper's, the batch is what was left to choose. SGD stands where the states of Adam
# alone would not leave room for an optimizer step.
RECIPES: tuple[Recipe, ...] = (
    _recipe("unet3d-144", V100_16, "unet3d", size="144", batch="4"),
    _recipe("unet3d-144", V100_32, "unet3d", size="144", batch="8"),
    _recipe("unet3d-144", A100, "unet3d", size="144", batch="16"),
    _recipe("unet3d-144", H200, "unet3d", size="144", batch="32"),
    _recipe("unet3d-192", V100_16, "unet3d", size="192", batch="2"),
    _recipe("unet3d-192", V100_32, "unet3d", size="192", batch="3"),
    _recipe("unet3d-192", A100, "unet3d", size="192", batch="8"),
    _recipe("unet3d-192", H200, "unet3d", size="192", batch="14"),
    _recipe("resnet50", V100_16, "resnet50", batch="256"),
    _recipe("resnet50", V100_32, "resnet50", batch="512"),
    _recipe("resnet50", A100, "resnet50", batch="1280"),
    _recipe("resnet50", H200, "resnet50", batch="2304"),
    _recipe("gpt2-xl", V100_16, "gpt2", size="xl", sequence="1024", batch="2", optimizer="sgd"),
    _recipe("gpt2-xl", V100_32, "gpt2", size="xl", sequence="1024", batch="2"),
    _recipe("gpt2-xl", A100, "gpt2", size="xl", sequence="1024", batch="10"),
    _recipe("gpt2-xl", H200, "gpt2", size="xl", sequence="1024", batch="18"),
    _recipe("llama-7b", V100_16, "llama", size="7b", sequence="2048", optimizer="sgd"),
    _recipe("llama-7b", V100_32, "llama", size="7b", sequence="4096", optimizer="sgd"),
    _recipe("llama-7b", A100, "llama", size="7b", sequence="4096", batch="2"),
    _recipe("llama-7b", H200, "llama", size="7b", sequence="4096", batch="5"),
)
