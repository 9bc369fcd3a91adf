import builtins
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from profiles.schema.errors import WorkloadError
from profiles.schema.profile import WorkloadSource
from profiles.workloads.build import build, check
from profiles.workloads.catalog import WORKLOADS

SMALLEST = (("size", "32"), ("features", "4"))
GOOD_FILE = """
import torch

def train(width="4", seed_check="0"):
    model = torch.nn.Linear(int(width), 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    def step():
        loss = model(torch.ones(2, int(width))).square().mean()
        loss.backward()
        optimizer.step()
        return loss
    return model, optimizer, step
"""


def source(
    reference: str, settings: tuple[tuple[str, str], ...] = (), seed: int = 0
) -> WorkloadSource:
    return WorkloadSource(reference=reference, settings=settings, seed=seed)


def user_file(folder: Path, text: str) -> Path:
    path = folder / "mine.py"
    path.write_text(text)
    return path


def test_unet3d_trains_the_same_way_from_the_same_seed() -> None:
    first, again = (build(source("unet3d", SMALLEST, seed=7)) for _ in range(2))
    losses = [first.step().item(), first.step().item()]
    assert losses == [again.step().item(), again.step().item()]
    assert losses[1] < losses[0]
    for one, other in zip(first.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)
    other_seed = build(source("unet3d", SMALLEST, seed=8))
    assert other_seed.step().item() != losses[0]


def test_the_brain_has_grey_and_white_matter() -> None:
    from profiles.workloads.unet3d import BACKGROUND, GREY, WHITE, brain

    image, labels = brain(64, 16)
    assert image.shape == labels.shape == (64, 64, 64)
    assert image.dtype == np.float32
    assert image.mean() == pytest.approx(0, abs=1e-3)
    assert image.std() == pytest.approx(1, abs=1e-3)
    shares = [np.mean(labels == tissue) for tissue in (BACKGROUND, GREY, WHITE)]
    assert min(shares) > 0.05
    # White matter is the brighter tissue in a T1 image.
    assert image[labels == WHITE].mean() > image[labels == GREY].mean()


def test_the_whole_brain_is_padded_to_what_the_network_can_halve() -> None:
    from profiles.workloads.unet3d import WHITE, brain

    image, labels = brain(None, 16)
    assert image.shape == labels.shape == (208, 240, 192)
    crop, _ = brain(192, 16)
    assert crop.shape == (192, 192, 192)
    assert not (labels[0] == WHITE).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((("sise", "64"),), "unet3d has no setting 'sise'. Settings: size, features,"),
        ((("size", "63"),), "unet3d: size is '63', expected a multiple of 16 from 32 to 768"),
        ((("size", "16"),), "unet3d: size is '16', expected"),
        ((("size", "big"),), "unet3d: size is 'big', expected"),
        ((("size", ""),), "unet3d: size is '', expected"),
        ((("features", "0"),), "unet3d: features is '0', expected a whole number from 4"),
        ((("learning_rate", "nan"),), "unet3d: learning_rate is 'nan', expected a number above"),
        ((("learning_rate", "0"),), "unet3d: learning_rate is '0', expected a number above"),
        ((("network", "vnet"),), "unet3d: network is 'vnet', expected one of basicunet, dynunet"),
        ((("batch", "0"),), "unet3d: batch is '0', expected a whole number from 1 to 64"),
        ((("size", "32"), ("size", "64")), "setting 'size' is given twice"),
    ],
)
def test_a_wrong_setting_is_reported_before_anything_is_loaded(
    settings: tuple[tuple[str, str], ...], message: str
) -> None:
    with pytest.raises(WorkloadError) as refused:
        check(source("unet3d", settings))
    assert message in str(refused.value)


def test_every_default_is_allowed() -> None:
    for name in WORKLOADS:
        check(source(name))


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("unet3", "there is no workload 'unet3'. Did you mean unet3d?"),
        ("banana", "there is no workload 'banana'. Built in: unet3d, resnet50, vit,"),
        ("", "the step was recorded from Python, so it cannot be built again"),
        ("nowhere.py:train", "nowhere.py: there is no such file."),
        ("nowhere.py", "'nowhere.py' names no function, expected path/to/file.py:function."),
        ("nowhere.py:", "'nowhere.py:' names no function"),
    ],
)
def test_a_wrong_reference_says_what_to_do(reference: str, message: str) -> None:
    with pytest.raises(WorkloadError) as refused:
        build(source(reference))
    assert message in str(refused.value)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def no_monai(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "monai":
            raise ModuleNotFoundError("No module named 'monai'", name="monai")
        return real_import(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "profiles.workloads.unet3d", raising=False)
    monkeypatch.setattr(builtins, "__import__", no_monai)
    with pytest.raises(WorkloadError, match=r"needs monai.*pip install 'swapplan\[models\]'"):
        build(source("unet3d", SMALLEST))


def test_a_users_function_gets_the_settings_and_the_seed(tmp_path: Path) -> None:
    path = user_file(tmp_path, GOOD_FILE)
    first = build(source(f"{path}:train", (("width", "6"),), seed=3))
    assert sum(p.numel() for p in first.model.parameters()) == 7
    again = build(source(f"{path}:train", (("width", "6"),), seed=3))
    assert first.step().item() == again.step().item()
    other = build(source(f"{path}:train", (("width", "6"),), seed=4))
    assert first.step().item() != other.step().item()


def test_a_users_function_may_return_a_workload(tmp_path: Path) -> None:
    text = GOOD_FILE + (
        "def whole():\n"
        "    from profiles.hooks.workload import Workload\n"
        "    model, optimizer, step = train()\n"
        "    return Workload(model=model, optimizer=optimizer, step=step)\n"
    )
    workload = build(source(f"{user_file(tmp_path, text)}:whole"))
    assert workload.step().ndim == 0


def test_a_users_file_may_import_its_neighbour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_neighbour.py").write_text(GOOD_FILE)
    late = "def train():\n    import my_neighbour\n    return my_neighbour.train()\n"
    path = user_file(tmp_path, late)
    for _ in range(2):
        assert build(source(f"{path}:train")).step().ndim == 0
    assert sys.path[-1] == str(tmp_path)
    assert sys.path.count(str(tmp_path)) == 1


RETURNS = GOOD_FILE + "def bad():\n    model, optimizer, step = train()\n    return "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "mine.py: bad is no such name, expected a function that returns"),
        ("bad = 1", "mine.py: bad is a int, expected a function that returns"),
        ("def bad(:", "mine.py cannot be loaded: SyntaxError"),
        ("import sys; sys.exit(3)", "mine.py cannot be loaded: SystemExit: 3"),
        ("import no_such_package", "cannot be loaded: ModuleNotFoundError: No module named"),
        ("def bad():\n    raise KeyError('two\\nlines')", "mine.py:bad failed: KeyError: "),
        ("def bad(size):\n    pass", "mine.py:bad failed: TypeError: bad() missing 1 required"),
        (
            "def bad():\n    pass",
            "mine.py:bad returned NoneType, expected a profiles.hooks.workload.",
        ),
        (f"{RETURNS}model, optimizer", "mine.py:bad returned 2 values, expected a profiles."),
        (f"{RETURNS}step, optimizer, model", "bad: model is a function, expected a torch.nn."),
        (f"{RETURNS}model, model, step", "bad: optimizer is a Linear, expected a torch.optim."),
        (f"{RETURNS}model, optimizer, 5", "bad: step is a int, expected a function without"),
        (
            f"{RETURNS}train()[0], optimizer, step",
            "bad: None of the optimizer's 2 parameters is the model's.",
        ),
    ],
)
def test_a_users_mistake_is_reported_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = user_file(tmp_path, text)
    with pytest.raises(WorkloadError) as refused:
        build(source(f"{path}:bad"))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


STEP = (
    "import torch\n"
    "def bad():\n"
    "    model = torch.nn.Linear(2, 1)\n"
    "    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
    "    def step():\n"
)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("model(torch.ones(3))", "the step failed: RuntimeError: "),
        ("raise ValueError('a\\nb')", "the step failed: ValueError: a b (mine.py, line 6)"),
        ("exit(1)", "the step failed: SystemExit: 1 (mine.py, line 6)"),
        ("optimizer.step()", "the step returned NoneType, expected the loss, a torch.Tensor."),
    ],
)
def test_a_step_that_fails_is_reported_in_one_line(tmp_path: Path, body: str, message: str) -> None:
    path = user_file(tmp_path, f"{STEP}        {body}\n    return model, optimizer, step\n")
    workload = build(source(f"{path}:bad"))
    with pytest.raises(WorkloadError) as refused:
        workload.step()
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_step_that_runs_out_of_memory_says_so_itself(tmp_path: Path) -> None:
    raises = "raise torch.OutOfMemoryError('full')"
    path = user_file(tmp_path, f"{STEP}        {raises}\n    return model, optimizer, step\n")
    with pytest.raises(torch.OutOfMemoryError, match="full"):
        build(source(f"{path}:bad")).step()


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_no_generator_takes_is_refused(seed: int) -> None:
    with pytest.raises(WorkloadError, match=f"the seed is {seed}, expected 0 to 4294967295"):
        check(source("unet3d", seed=seed))


def test_an_unknown_setting_of_the_users_own_is_reported(tmp_path: Path) -> None:
    path = user_file(tmp_path, GOOD_FILE)
    with pytest.raises(WorkloadError, match="unexpected keyword argument 'hight'"):
        build(source(f"{path}:train", (("hight", "3"),)))
