"""Every built-in workload trains for real when small, and costs no memory when fake and large."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from profiles.hooks.workload import Workload
from profiles.schema.errors import WorkloadError
from profiles.schema.profile import WorkloadSource
from profiles.workloads.build import check
from profiles.workloads.catalog import WORKLOADS
from tests.support.training.built_in import TINY, Settings, built, names


def parameter_count(workload: Workload) -> int:
    return sum(parameter.numel() for parameter in workload.model.parameters())


def test_every_builtin_is_trained_here() -> None:
    assert {reference for reference, _ in TINY} == set(WORKLOADS)


@pytest.mark.parametrize(("reference", "settings"), TINY, ids=names)
def test_two_steps_are_the_same_from_the_same_seed(
    reference: str, settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    def trained(seed: int) -> tuple[list[float], list[torch.Tensor]]:
        workload = built(reference, settings, seed)
        losses = [workload.step() for _ in range(2)]
        assert all(loss.ndim == 0 and not loss.requires_grad for loss in losses)
        return [loss.item() for loss in losses], list(workload.model.parameters())

    losses, parameters = trained(3)
    assert losses[0] != losses[1]
    same_losses, same_parameters = trained(3)
    assert losses == same_losses
    for one, other in zip(parameters, same_parameters, strict=True):
        assert torch.equal(one, other)
    assert trained(4)[0][0] != losses[0]
    # Neither transformers nor MONAI has anything to say to the user.
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("reference", "settings"), TINY, ids=names)
def test_every_parameter_is_trained_in_one_group(reference: str, settings: Settings) -> None:
    workload = built(reference, settings)
    before = [parameter.detach().clone() for parameter in workload.model.parameters()]
    workload.step()
    idle = [
        name
        for (name, after), earlier in zip(workload.model.named_parameters(), before, strict=True)
        if torch.equal(after, earlier) and after.grad is None
    ]
    assert idle == []


@pytest.mark.parametrize(
    ("reference", "settings", "parameters_millions"),
    [
        # He et al. 2015; Radford et al. 2019, whose table rounds; Touvron et al. 2023.
        ("resnet50", {"batch": "512"}, 25.6),
        ("gpt2", {"size": "xl", "sequence": "1024", "batch": "8"}, 1557.6),
        ("llama", {"size": "7b", "sequence": "4096"}, 6738.4),
    ],
    ids=names,
)
def test_full_size_costs_no_memory_where_tensors_are_fake(
    reference: str, settings: Settings, parameters_millions: float
) -> None:
    with FakeTensorMode():
        workload = built(reference, settings)
        loss = workload.step()
    assert loss.ndim == 0
    assert parameter_count(workload) / 1e6 == pytest.approx(parameters_millions, abs=0.05)


def test_llama_computes_in_the_type_asked_for() -> None:
    for word, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        model = built("llama", {"size": "tiny", "sequence": "16", "dtype": word}).model
        assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize(
    ("word", "states"), [("adam", 2), ("adamw", 2), ("momentum", 1), ("sgd", 0)]
)
def test_an_optimizer_has_as_many_states_as_its_setting_says(word: str, states: int) -> None:
    workload = built("gpt2", {"size": "tiny", "sequence": "16", "optimizer": word})
    workload.step()
    model_bytes = sum(p.nbytes for p in workload.model.parameters())
    held = [
        value
        for state in workload.optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor) and value.numel() > 1
    ]
    assert sum(value.nbytes for value in held) == states * model_bytes


def test_no_dropout_is_no_randomness() -> None:
    settings = {"size": "tiny", "sequence": "16", "dropout": "0"}
    workload = built("gpt2", settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state = torch.get_rng_state()
        workload.step()
    assert torch.equal(state, torch.get_rng_state())


def test_text_is_real_and_comes_again_after_four_batches() -> None:
    from profiles.workloads.language import BATCHES, BYTES, text_batches

    fetch = text_batches(2, 64)
    batches = [fetch() for _ in range(BATCHES + 1)]
    assert batches[0].shape == (2, 64)
    assert batches[0].dtype == torch.int64
    assert max(batch.max().item() for batch in batches) < BYTES
    assert not torch.equal(batches[0], batches[1])
    assert torch.equal(batches[0], batches[BATCHES])
    text = bytes(torch.cat([batch.flatten() for batch in batches[:BATCHES]]).tolist())
    # The first module of the standard library by name.
    import __future__

    assert text == Path(__future__.__file__).read_bytes()[: len(text)]


def test_more_text_than_there_is_starts_again() -> None:
    from profiles.workloads.language import text_batches

    wide = text_batches(4, 1_000_000)()
    assert wide.shape == (4, 1_000_000)


def test_slices_of_the_brain_show_every_height() -> None:
    from profiles.workloads.pictures import HEIGHTS, HIGHEST, LOWEST, brain_slices

    pictures, classes = brain_slices(40, 64)
    assert pictures.shape == (40, 3, 64, 64)
    assert pictures.dtype == torch.float32
    assert set(classes.tolist()) == set(range(HEIGHTS))
    assert classes.tolist() == sorted(classes.tolist())
    # The head is wider below than at the top, so its slices are brighter there.
    assert pictures[0].mean() > pictures[-1].mean()
    distinct = HIGHEST - LOWEST
    many, more = brain_slices(distinct + 3, 32)
    assert torch.equal(many[:3], many[distinct:])
    assert torch.equal(more[:3], more[distinct:])


def test_a_batch_of_brains_holds_their_mirror_images() -> None:
    from profiles.workloads.unet3d import _mirrored

    volume = torch.arange(8.0).view(2, 2, 2)
    images = _mirrored(volume, 9)
    assert images.shape == (9, 1, 2, 2, 2)
    assert torch.equal(images[0, 0], volume)
    assert torch.equal(images[3, 0], volume.flip([0, 1]))
    assert torch.equal(images[8], images[0])
    assert len({tuple(image.flatten().tolist()) for image in images}) == 8


@pytest.mark.parametrize(
    ("reference", "settings", "message"),
    [
        ("resnet50", {"resolution": "225"}, "resolution is '225', expected a multiple of 32 from"),
        ("vit", {"size": "xl"}, "vit: size is 'xl', expected one of tiny, base, large, huge."),
        ("vit", {"resolution": "2064"}, "vit: resolution is '2064', expected a multiple of 16"),
        ("gpt2", {"size": "XL"}, "gpt2: size is 'XL', expected one of tiny, small, medium,"),
        ("gpt2", {"sequence": "1025"}, "gpt2: sequence is '1025', expected a whole number from 8"),
        ("gpt2", {"dropout": "1"}, "gpt2: dropout is '1', expected a number from 0, below 1"),
        ("gpt2", {"dropout": "nan"}, "gpt2: dropout is 'nan', expected a number from 0"),
        ("bert", {"sequence": "513"}, "bert: sequence is '513', expected a whole number from 8"),
        ("llama", {"dtype": "fp16"}, "llama: dtype is 'fp16', expected one of bf16, fp32 (of"),
        ("llama", {"optimizer": "lion"}, "llama: optimizer is 'lion', expected one of adam,"),
        ("llama", {"dropout": "0.1"}, "llama has no setting 'dropout'. Settings: size, sequence,"),
    ],
)
def test_a_wrong_setting_is_reported_in_one_line(
    reference: str, settings: Settings, message: str
) -> None:
    source = WorkloadSource(reference=reference, settings=tuple(settings.items()), seed=0)
    with pytest.raises(WorkloadError) as refused:
        check(source)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("where", ["build", "step"])
def test_too_little_host_memory_is_reported_in_one_line(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from profiles.workloads import language

    def too_large() -> torch.Tensor:
        return torch.empty(1 << 50, dtype=torch.uint8)

    def broken(**settings: Any) -> Workload:
        if where == "build":
            too_large()
        model = torch.nn.Linear(1, 1)
        optimizer = torch.optim.SGD(model.parameters())
        return Workload(model=model, optimizer=optimizer, step=too_large)

    monkeypatch.setattr(language, "llama", broken)
    with pytest.raises(WorkloadError, match="llama needs more memory than this machine has"):
        built("llama", {}).step()


def test_a_full_device_speaks_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    from profiles.workloads import language

    def full(**settings: Any) -> Workload:
        raise torch.OutOfMemoryError("the device is full")

    monkeypatch.setattr(language, "llama", full)
    with pytest.raises(torch.OutOfMemoryError, match="the device is full"):
        built("llama", {})
