"""The profiles that come with the project: found by name, whole, and as the index says."""

import fnmatch
import tomllib
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from planner.plan.plan_file import read_plan
from profiles.library.index import ENDING, INDEX, Entry, Index, folder, profile_path, read_index
from profiles.library.make import RECIPES, Recipe, estimated, make
from profiles.schema.errors import FileError
from profiles.schema.files import read_file
from profiles.schema.profile import Provenance, WorkloadSource
from profiles.schema.profile_file import read_profile
from profiles.workloads.build import build, check
from profiles.workloads.catalog import WORKLOADS
from runtime.cli import main

LARGEST_LIBRARY_BYTES = 6_000_000
ENTRIES = read_index().entries
SMALL = "unet3d-192-v100-16gb"


def data_files() -> list[Path]:
    return sorted(path for path in folder().iterdir() if path.suffix in (".gz", ".json"))


def test_the_files_are_those_of_the_index_and_small() -> None:
    names = {INDEX, *(f"{entry.name}{ENDING}" for entry in ENTRIES)}
    assert {path.name for path in data_files()} == names
    assert sum(path.stat().st_size for path in data_files()) < LARGEST_LIBRARY_BYTES


def test_every_file_is_packaged() -> None:
    pyproject = Path(__file__).parents[3] / "pyproject.toml"
    settings = tomllib.loads(pyproject.read_text())["tool"]["setuptools"]
    patterns = settings["package-data"]["profiles.library"]
    for path in data_files():
        assert any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns), path.name


def test_every_recipe_is_in_the_library_and_nothing_else() -> None:
    assert [(entry.name, entry.command) for entry in ENTRIES] == [
        (recipe.name, recipe.command) for recipe in RECIPES
    ]
    for recipe in RECIPES:
        check(recipe.source)
    steps = ("unet3d-144", "unet3d-192", "resnet50", "gpt2-xl", "llama-7b")
    devices = ("v100-16gb", "v100-32gb", "a100-80gb", "h200")
    assert [recipe.name for recipe in RECIPES] == [
        *(f"{step}-{device}" for step in steps for device in devices),
        *(f"llama-{size}-rtx4090" for size in ("1b", "3b", "8b")),
        *("llama-8b-a100-80gb", "llama-13b-a100-80gb"),
    ]
    assert all(recipe.name.endswith(f"-{recipe.device}") for recipe in RECIPES)


@pytest.mark.parametrize(
    ("entry", "recipe"),
    list(zip(ENTRIES, RECIPES, strict=True)),
    ids=[entry.name for entry in ENTRIES],
)
def test_a_profile_is_as_its_index_and_recipe_say(entry: Entry, recipe: Recipe) -> None:
    profile = read_profile(profile_path(Path(f"library:{entry.name}")))
    assert profile.workload == recipe.source
    assert profile.times is entry.times is Provenance.ESTIMATED
    assert (profile.device.name, profile.device.memory_bytes) == (
        entry.device,
        entry.device_bytes,
    )
    assert len(profile.ops) == entry.ops
    assert profile.step_us == pytest.approx(entry.step_us)
    peak_bytes = profile.peak_bytes
    assert peak_bytes == entry.peak_bytes
    # Each is larger than its device, and not so much that no plan could be of use.
    assert 1.0 < entry.peak_bytes / entry.device_bytes < 2.6


def test_the_library_is_what_the_estimate_makes_today() -> None:
    """If this fails the estimate has changed since: run `make library`."""
    name = "resnet50-v100-16gb"
    shipped = read_profile(profile_path(Path(f"library:{name}")))
    if shipped.versions.torch.partition("+")[0] != torch.__version__.partition("+")[0]:
        pytest.skip(f"made with torch {shipped.versions.torch}; ops differ between versions")
    (recipe,) = (recipe for recipe in RECIPES if recipe.name == name)
    today = estimated(recipe.source, recipe.device)
    assert today == shipped.model_copy(update={"versions": today.versions})


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("unet3d-192-v100", "Did you mean unet3d-192-"),
        ("GPT2-XL-H200", "Did you mean gpt2-xl-h200"),
        ("../index", "'plan library' lists what there is."),
        ("", "'plan library' lists what there is."),
    ],
)
def test_an_unknown_name_says_what_there_is(name: str, hint: str) -> None:
    with pytest.raises(FileError) as refused:
        profile_path(Path(f"library:{name}"))
    assert f"the library has no profile {name!r}. {hint}" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_other_paths_stay_as_they_are() -> None:
    for path in (Path("my.profile.json.gz"), Path("./library:mine").absolute()):
        assert profile_path(path) == path


def test_the_library_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["library"]) == 0
    printed = capsys.readouterr().out
    for entry in ENTRIES:
        assert f"library:{entry.name} " in printed
    assert "estimated" in printed


def test_solve_and_show_take_a_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = tmp_path / "plan.json"
    words = ["--budget", "15GiB", "--link", "nvlink2-ac922-4gpu", "--time-limit", "5"]
    assert main(["solve", f"library:{SMALL}", *words, "-o", str(plan)]) == 0
    assert read_plan(plan).swaps
    assert main(["show", f"library:{SMALL}", "--png", str(tmp_path / "memory.png")]) == 0
    assert (tmp_path / "memory.png").stat().st_size > 0
    capsys.readouterr()
    assert main(["show", "library:unet"]) == 2
    assert capsys.readouterr().err.startswith("plan: the library has no profile 'unet'.")


def test_the_size_of_every_workload_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = read_index().workloads
    assert [size.workload for size in sizes] == list(WORKLOADS)
    assert main(["workloads"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "25.6 million parameters (97.49 MiB)" in printed
    assert printed.count("(estimated)") == len(WORKLOADS)
    assert printed.count("needs swapplan[models]") == len(WORKLOADS)


@pytest.mark.parametrize("name", ["resnet50", "gpt2", "bert", "llama"])
def test_a_listed_size_is_that_of_the_workload(name: str) -> None:
    with FakeTensorMode():
        model = build(WorkloadSource(reference=name, settings=(), seed=0)).model
    (size,) = (size for size in read_index().workloads if size.workload == name)
    assert size.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert size.parameter_bytes == sum(parameter.nbytes for parameter in model.parameters())


def test_a_recipe_makes_what_its_command_makes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = WorkloadSource(
        reference="llama", settings=(("size", "tiny"), ("sequence", "16")), seed=0
    )
    recipe = Recipe(name="tiny-h200", source=source, device="h200")
    outdated = tmp_path / f"outdated{ENDING}"
    outdated.touch()
    make(tmp_path, [recipe], ["llama"])
    assert not outdated.exists()
    assert capsys.readouterr().err == f"{recipe.command}\n"
    index = read_file(Index, tmp_path / INDEX)
    made = read_profile(tmp_path / f"tiny-h200{ENDING}")
    assert [entry.name for entry in index.entries] == ["tiny-h200"]
    assert index.entries[0].step_us == made.step_us
    (size,) = index.workloads
    assert size.activation_bytes > size.parameter_bytes == 2 * size.parameters
    again = tmp_path / "again.json.gz"
    assert main([*recipe.command.split()[1:], "-o", str(again)]) == 0
    assert read_profile(again) == made
