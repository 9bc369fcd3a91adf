"""Tensors of more than one storage, or of none: what is behind them is counted, moved, or left."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.two_tensor import TwoTensor

from profiles.hooks.named_storages import describe_model, owned_storages
from profiles.hooks.plain_tensors import has_storage, only_plain, part_at, plain_parts, version_of
from profiles.hooks.workload import Workload
from profiles.schema.profile import LeftOut, Profile
from runtime import LoadedPlan
from runtime.beyond_capacity.record import record_beyond_capacity
from runtime.storage.accountant import Accountant
from runtime.storage.write_marks import WriteMarks, take_off
from tests.support.planning.hardest_plans import everything_away, periodic, returning_at_boundary
from tests.support.training.fixed_times import FAST_LINK, UNNAMED, record_at_fixed_times
from tests.support.training.models import seeded
from tests.support.training.wrappers import Quantised

WIDTH = 48
ROWS = 64


def quantised() -> Quantised:
    return Quantised(torch.randint(-9, 9, (WIDTH, WIDTH), dtype=torch.int8), torch.tensor(0.01))


def jagged() -> torch.Tensor:
    rows = [torch.ones(2, 3), torch.ones(4, 3)]
    return torch.nested.nested_tensor(rows, layout=torch.jagged)


class Tagged(nn.Parameter):
    """A parameter that knows more than its numbers, as 8-bit weights do."""


class Watched(torch.Tensor):
    """A tensor with a storage of its own that handles its ops itself."""

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        with torch._C._DisableTorchDispatch():
            return func(*args, **(kwargs or {}))


def watched() -> torch.Tensor:
    made: torch.Tensor = torch.Tensor._make_subclass(Watched, torch.ones(2))
    return made


PARTS: dict[str, tuple[Callable[[], torch.Tensor], list[str]]] = {
    "plain": (lambda: torch.ones(2), [""]),
    "parameter": (lambda: nn.Parameter(torch.ones(2)), [""]),
    "tagged": (lambda: Tagged(torch.ones(2)), [""]),
    "watched": (watched, [""]),
    "coo": (lambda: torch.eye(3).to_sparse(), ["_indices", "_values"]),
    "csr": (lambda: torch.eye(3).to_sparse_csr(), ["crow_indices", "col_indices", "values"]),
    "csc": (lambda: torch.eye(3).to_sparse_csc(), ["ccol_indices", "row_indices", "values"]),
    "bsr": (lambda: torch.eye(4).to_sparse_bsr(2), ["crow_indices", "col_indices", "values"]),
    "meta": (lambda: torch.ones(2, device="meta"), []),
    "two": (lambda: TwoTensor(torch.ones(2), torch.zeros(2)), ["a", "b"]),
    "two of two": (
        lambda: TwoTensor(TwoTensor(torch.ones(2), torch.ones(2)), torch.zeros(2)),
        ["a/a", "a/b", "b"],
    ),
    "quantised": (quantised, ["integers", "scale"]),
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), [""]),
    "jagged": (jagged, ["_values", "_offsets"]),
    "opaque": (lambda: torch.ones(4, 4).to_mkldnn(), []),
}


@pytest.mark.filterwarnings("ignore:.*prototype:UserWarning", "ignore:Sparse:UserWarning")
@pytest.mark.parametrize("kind", PARTS)
def test_the_plain_tensors_behind_a_tensor(kind: str) -> None:
    make, expected = PARTS[kind]
    tensor = make()
    parts = dict(plain_parts(tensor))
    assert [path for path in parts if not path.startswith(("_min", "_max"))] == expected
    for path, plain in parts.items():
        assert has_storage(plain)
        assert plain.numel() == 0 or plain.untyped_storage().data_ptr()
        found = part_at(tensor, path)
        assert found is not None
        assert found.untyped_storage() is plain.untyped_storage()
    assert (only_plain(tensor) is not None) == (len(parts) == 1)


def test_tensors_of_a_transform_have_none_and_fake_ones_have_one() -> None:
    seen: list[bool] = []

    def look(row: torch.Tensor) -> torch.Tensor:
        seen.append(has_storage(row) or bool(list(plain_parts(row))))
        return row.sum()

    torch.func.vmap(look)(torch.ones(2, 2))
    torch.func.grad(look)(torch.ones(2))
    assert seen == [False, False]
    with FakeTensorMode():
        assert has_storage(torch.ones(2))


@pytest.mark.parametrize("kind", ["plain", "parameter", "tagged", "watched"])
def test_to_look_behind_a_tensor_takes_no_mark_off(kind: str) -> None:
    """Else a storage would seem to have been written while its bytes were on their way back."""
    tensor = PARTS[kind][0]()
    marks = WriteMarks(torch.device("cpu"))
    marks.put_on(0, tensor.untyped_storage())
    assert has_storage(tensor)
    assert [path for path, _ in plain_parts(tensor)] == [""]
    assert only_plain(tensor) is tensor
    assert not marks.shows_write(0, tensor.untyped_storage())
    take_off(tensor.untyped_storage())


def test_an_inference_tensor_has_no_version() -> None:
    with torch.inference_mode():
        made = torch.ones(2)
    assert (version_of(made), version_of(torch.ones(2).add_(1))) == (0, 1)


class Lora(nn.Module):
    """A frozen quantised weight and two small ones that are trained."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(quantised(), requires_grad=False)
        self.down = nn.Parameter(torch.randn(WIDTH, 4) * 0.1)
        self.up = nn.Parameter(torch.randn(4, WIDTH) * 0.1)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(rows, self.weight) + rows @ self.down @ self.up


class Graph(nn.Module):
    """A graph's adjacency as a sparse buffer."""

    adjacency: torch.Tensor

    def __init__(self, layout: torch.layout) -> None:
        super().__init__()
        adjacency = (torch.rand(ROWS, ROWS) > 0.8).float()
        self.register_buffer("adjacency", adjacency.to_sparse(layout=layout))
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            rows = torch.tanh(layer(self.adjacency @ rows / ROWS))
        return rows


class Taught(nn.Module):
    """A frozen teacher that was built in inference mode, a buffer of it included."""

    def __init__(self) -> None:
        super().__init__()
        self.student = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())
        with torch.inference_mode():
            self.teacher = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH)).eval()
        self.teacher.requires_grad_(requires_grad=False)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            target = self.teacher(rows)
        return self.student(rows) - target.clone()


class Ragged(nn.Module):
    """Rows of several lengths in one jagged tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        parts = torch.nested.nested_tensor([rows[:24], rows[24:]], layout=torch.jagged)
        return torch.tanh(self.layer(parts)).values()


class Embedding(nn.Module):
    """Its gradient is sparse."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Embedding(500, WIDTH, sparse=True)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.rows((rows[:, :8] * 100).abs().long())


class Both(nn.Module):
    """A trained parameter that is two tensors."""

    def __init__(self) -> None:
        super().__init__()
        weight = torch.randn(WIDTH, WIDTH) * 0.1
        self.weight = nn.Parameter(TwoTensor(weight, weight.clone()))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.tanh(nn.functional.linear(TwoTensor(rows, rows.clone()), self.weight))


class Eight(nn.Module):
    """Frozen integers with a scale, in a parameter of a class of its own that is set anew."""

    def __init__(self) -> None:
        super().__init__()
        integers = torch.randint(-9, 9, (WIDTH, WIDTH), dtype=torch.int8)
        self.weight = Tagged(integers, requires_grad=False)
        self.down = nn.Parameter(torch.randn(WIDTH, WIDTH) * 0.1)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        kept = self.weight.data
        rows = torch.tanh(rows @ (self.weight * 0.01) + rows @ self.down)
        self.weight.data = kept
        return rows


MODELS: dict[str, Callable[[], nn.Module]] = {
    "lora": lambda: nn.Sequential(Lora(), nn.GELU(), Lora()),
    "eight": lambda: nn.Sequential(Eight(), nn.GELU(), Eight()),
    "graph of coo": lambda: Graph(torch.sparse_coo),
    "graph of csr": lambda: Graph(torch.sparse_csr),
    "taught": Taught,
    "both": Both,
    "ragged": Ragged,
    "embedding": Embedding,
}

MOVED = {
    "lora": {"parameter:0.weight/integers", "parameter:2.weight/integers"},
    "eight": {"parameter:0.weight", "parameter:2.weight"},
    "graph of coo": {"buffer:adjacency/_values", "buffer:adjacency/_indices"},
    "graph of csr": {"buffer:adjacency/values", "buffer:adjacency/col_indices"},
    "taught": {"parameter:teacher.0.weight"},
    "both": {"parameter:weight/a", "parameter:weight/b"},
    "ragged": {"parameter:layer.weight"},
    "embedding": {"parameter:rows.weight", "state:rows.weight.exp_avg"},
}


def workload(kind: str) -> Workload:
    torch.manual_seed(0)
    model = MODELS[kind]()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    adam = torch.optim.SparseAdam if kind == "embedding" else torch.optim.AdamW
    optimizer = adam(trained, lr=1e-3)
    generator = seeded(1)

    def step() -> torch.Tensor:
        if kind == "embedding":
            # How large a sparse gradient is depends on the batch.
            generator.manual_seed(1)
        optimizer.zero_grad()
        loss = model(torch.randn(ROWS, WIDTH, generator=generator)).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Workload(model=model, optimizer=optimizer, step=step)


def numbers(of: Workload) -> dict[str, bytes]:
    """The bytes of every storage that is held; an empty one has none."""
    return {
        owner.name: bytes(owner.storage.tolist())
        for owner in owned_storages(of.model, of.optimizer)
    }


quiet = pytest.mark.filterwarnings("ignore:.*prototype:UserWarning", "ignore:Sparse:UserWarning")


@quiet
@pytest.mark.parametrize("kind", MODELS)
def test_a_step_is_recorded_to_the_byte_and_replayed_with_the_same_numbers(kind: str) -> None:
    profile = record_at_fixed_times(workload(kind))
    assert counted_bytes(kind) == profile.peak_bytes
    plan = returning_at_boundary(periodic(profile)) if kind == "eight" else everything_away(profile)
    assert {plan.storage(swap.storage).name for swap in plan.swaps} >= MOVED[kind]
    plain, replayed = workload(kind), workload(kind)
    with LoadedPlan(plan).attach(replayed.model, replayed.optimizer) as replay:
        for _ in range(3):
            with replay.step() as statistics:
                loss = replayed.step().item()
            assert loss == plain.step().item()
            assert statistics.fallback is None
        assert statistics.d2h_bytes > 0
    assert numbers(replayed) == numbers(plain)


def counted_bytes(kind: str) -> int:
    """The peak as the accountant counts it, independently."""
    counted = workload(kind).held()
    accountant = Accountant(torch.device("cpu"), budget_bytes=None)
    for _ in range(3):
        accountant.memory.count_owned(owned_storages(counted.model, counted.optimizer))
        with accountant:
            counted.step()
    return accountant.memory.peak_bytes


@quiet
@pytest.mark.parametrize("kind", ["lora", "embedding", "taught"])
def test_a_step_is_recorded_beyond_capacity_with_the_same_numbers(kind: str) -> None:
    plain, limited = workload(kind), workload(kind)
    limit_bytes = counted_bytes(kind) * 9 // 10
    profile = record_beyond_capacity(
        limited, source=UNNAMED, link=FAST_LINK, limit_bytes=limit_bytes, timed_steps=1
    )
    for _ in range(profile.warmup_steps + profile.timed_steps):
        plain.step()
    assert numbers(limited) == numbers(plain)


def test_a_model_of_wrapped_tensors_is_another_model() -> None:
    plain, wrapped = Lora(), Lora()
    plain.weight = nn.Parameter(torch.zeros(WIDTH, WIDTH), requires_grad=False)
    fingerprints = {
        describe_model(model, torch.optim.SGD([model.up])).fingerprint()
        for model in (plain, wrapped, Lora())
    }
    assert len(fingerprints) == 2


def resizing() -> Workload:
    """Gathers its weight into a buffer that is empty between uses, as FSDP does."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    gathered = torch.empty(WIDTH, WIDTH)
    size_bytes = gathered.untyped_storage().nbytes()

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        gathered.untyped_storage().resize_(size_bytes)
        gathered.copy_(next(model.parameters()).detach())
        loss = (model(torch.ones(ROWS, WIDTH) * 2) @ torch.ones(1, WIDTH) @ gathered).sum()
        loss.backward()
        optimizer.step()
        gathered.untyped_storage().resize_(0)
        return loss.detach()

    return Workload(model=model, optimizer=optimizer, step=step)


def test_what_the_step_itself_resizes_is_left_out() -> None:
    profile: Profile = record_at_fixed_times(resizing())
    left = [s for s in profile.storages if s.left_out is LeftOut.RESIZED]
    assert [storage.size_bytes for storage in left] == [0, WIDTH * WIDTH * 4], "before and after"


@pytest.fixture(name="group")
def _group(tmp_path: Any) -> Any:
    store = (tmp_path / "store").as_uri()
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def sharded() -> Workload:
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    layers = [m for _ in range(3) for m in (nn.Linear(WIDTH, WIDTH), nn.GELU())]
    model = nn.Sequential(*layers)
    fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    generator = seeded(1)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(torch.randn(ROWS, WIDTH, generator=generator)).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Workload(model=model, optimizer=optimizer, step=step)


def test_shards_of_fully_shard_move(group: None) -> None:
    profile = record_at_fixed_times(sharded())
    plan = everything_away(profile)
    moved = {plan.storage(swap.storage).name for swap in plan.swaps}
    assert moved >= {"parameter:0.weight/_local_tensor", "state:0.weight.exp_avg/_local_tensor"}
    plain, replayed = sharded(), sharded()
    with LoadedPlan(plan).attach(replayed.model, replayed.optimizer) as replay:
        replay._stepper.accountant.budget_bytes = None
        for _ in range(4):
            with replay.step() as statistics:
                loss = replayed.step().item()
            assert loss == plain.step().item()
    assert statistics.fallback is None
    assert statistics.d2h_bytes > 0
    assert numbers(replayed) == numbers(plain)
