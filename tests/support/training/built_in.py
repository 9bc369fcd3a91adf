"""Built-in workloads, small enough to train."""

from profiles.hooks.workload import Workload
from profiles.schema.profile import WorkloadSource
from profiles.workloads.build import build

Settings = dict[str, str]
WAYS: tuple[tuple[str, Settings], ...] = (
    ("unet3d", {"size": "32", "features": "4", "accumulate": "2"}),
    ("resnet50", {"resolution": "32", "batch": "2", "accumulate": "2"}),
    ("vit", {"size": "tiny", "resolution": "32", "batch": "2", "checkpointing": "yes"}),
    ("gpt2", {"size": "tiny", "sequence": "16", "precision": "fp16", "checkpointing": "yes"}),
    ("bert", {"size": "tiny", "sequence": "16", "checkpointing": "yes", "accumulate": "3"}),
    (
        "llama",
        {
            "size": "tiny",
            "sequence": "16",
            "dtype": "fp32",
            "precision": "bf16",
            "checkpointing": "yes",
        },
    ),
)
"""Gradient accumulation, mixed precision and checkpointing; the first two networks are slow."""
PLAINLY_TRAINED: tuple[tuple[str, Settings], ...] = (
    ("unet3d", {"size": "32", "features": "4"}),
    ("unet3d", {"size": "32", "features": "4", "network": "dynunet", "batch": "2"}),
    ("resnet50", {"resolution": "32", "batch": "2"}),
    ("vit", {"size": "tiny", "resolution": "32", "batch": "2"}),
    ("gpt2", {"size": "tiny", "sequence": "16"}),
    ("bert", {"size": "tiny", "sequence": "32"}),
    ("llama", {"size": "tiny", "sequence": "16"}),
    ("llama", {"size": "tiny", "sequence": "16", "dtype": "fp32", "optimizer": "sgd"}),
)
TINY = (*PLAINLY_TRAINED, *WAYS[2:])


def built(reference: str, settings: Settings, seed: int = 3) -> Workload:
    source = WorkloadSource(reference=reference, settings=tuple(settings.items()), seed=seed)
    return build(source)


def names(case: object) -> str:
    return "-".join(case.values()) if isinstance(case, dict) else str(case)
