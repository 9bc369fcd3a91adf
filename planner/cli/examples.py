"""An example or two of each command, as its `--help` ends with them."""

EXAMPLES = {
    "profile": (
        "plan profile unet3d --set size=96",
        "plan profile my_training.py:train --set batch=2048 -o my.profile.json.gz",
        "plan profile varying.py:train --courses 3",
    ),
    "solve": (
        "plan solve unet3d.profile.json.gz --budget 40%",
        "plan solve library:unet3d-144-v100-16gb --budget 15GiB --link pcie3-x16",
    ),
    "check": ("plan check unet3d.plan.json unet3d.profile.json.gz",),
    "compare": ("plan compare library:unet3d-144-v100-16gb --budget 15GiB --brief",),
    "sweep": (
        "plan sweep unet3d.profile.json.gz --budgets 30%,50%,70% --png curve.png",
        "plan sweep library:gpt2-xl-v100-16gb --budgets 12GiB,15GiB --links pcie3-x16,pcie4-x16",
    ),
    "limits": ("plan limits unet3d --grow size --device v100-16gb --links pcie3-x16",),
    "show": (
        "plan show unet3d.plan.json --png unet3d.png",
        "plan show library:unet3d-144-v100-16gb --json",
    ),
    "diff": ("plan diff pcie.plan.json nvlink.plan.json",),
    "report": ("plan report unet3d.plan.json",),
    "trace": ("plan trace unet3d.plan.json -o unet3d.trace.json.gz",),
    "run": (
        "plan run unet3d.plan.json",
        "plan run my.plan.json --workload my_training.py:train --steps 10",
        "plan run varying.plans.json",
    ),
    "workloads": ("plan workloads",),
    "devices": ("plan devices --sources",),
    "links": ("plan links --sources",),
    "link": ("plan link --device cuda",),
    "library": ("plan library",),
}
"""By the command's name."""


def examples_text(command: str) -> str:
    """Returns the end of a command's help."""
    return "\n\n".join(("Examples:", *(f"  {example}" for example in EXAMPLES[command])))
