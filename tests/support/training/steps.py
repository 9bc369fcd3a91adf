"""Training steps of many kinds, small: what ordinary training does that memory depends on.

Each is a function that returns a workload; the same numbers from the same seed.
"""

import copy
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from profiles.hooks.workload import Workload, bare_optimizer

WIDTH = 48
ROWS = 32

Build = Callable[[], Workload]
MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
Loss = Callable[[nn.Module, torch.Tensor], torch.Tensor]
Draw = Callable[[], torch.Tensor]


def perceptron(layers: int = 3, *, bias: bool = True) -> nn.Sequential:
    pairs = [(nn.Linear(WIDTH, WIDTH, bias=bias), nn.GELU()) for _ in range(layers)]
    return nn.Sequential(*itertools.chain.from_iterable(pairs))


def adamw(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-3, foreach=False)


def error(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    loss: torch.Tensor = (model(inputs) - inputs).square().mean()
    return loss


def one_batch(batch: torch.Tensor) -> Draw:
    return lambda: batch


def listed_batches() -> Draw:
    """Batches made once and gone through in turn."""
    turns = itertools.count()
    batches = [torch.randn(ROWS, WIDTH) for _ in range(7)]
    return lambda: batches[next(turns) % len(batches)]


def plain(
    make_optimizer: MakeOptimizer = adamw,
    *,
    model: Callable[[], nn.Module] = perceptron,
    loss: Loss = error,
    source: Callable[[], Draw] = lambda: one_batch(torch.randn(ROWS, WIDTH)),
    zero_at: str = "first",
    set_to_none: bool = True,
    batches: int = 1,
    returned: Callable[[torch.Tensor], torch.Tensor] = torch.Tensor.detach,
    before_update: Callable[[nn.Module], object] = lambda _: None,
) -> Workload:
    """Forward, backward, update, with gradients dropped at one of three places."""
    trained = model()
    optimizer = make_optimizer([p for p in trained.parameters() if p.requires_grad])
    draw = source()

    def zero(place: str) -> None:
        if place == zero_at:
            optimizer.zero_grad(set_to_none=set_to_none)

    def step() -> torch.Tensor:
        zero("first")
        for _ in range(batches):
            value = loss(trained, draw())
            zero("middle")
            value.backward()
        before_update(trained)
        optimizer.step()
        zero("last")
        return returned(value)

    return Workload(model=trained, optimizer=optimizer, step=step)


def with_closure(make_optimizer: MakeOptimizer) -> Workload:
    model = perceptron(2)
    optimizer = make_optimizer(model.parameters())
    inputs = torch.randn(ROWS, WIDTH)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = error(model, inputs)
        loss.backward()
        return loss

    def step() -> torch.Tensor:
        return torch.as_tensor(optimizer.step(closure)).detach()

    return Workload(model=model, optimizer=optimizer, step=step)


def scaled() -> Workload:
    """Mixed precision with a loss scaler."""
    model = perceptron()
    optimizer = adamw(model.parameters())
    kind = torch.get_default_device().type
    scaler = torch.amp.GradScaler(kind, init_scale=4.0)
    inputs = torch.randn(ROWS, WIDTH)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        with torch.autocast(kind, torch.bfloat16):
            loss = error(model, inputs)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss.detach()

    return Workload(model=model, optimizer=optimizer, step=step)


class Checkpointed(nn.Module):
    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(perceptron(2) for _ in range(3))
        self.reentrant = reentrant

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = inputs.clone().requires_grad_(True)
        for block in self.blocks:
            hidden = checkpoint(block, hidden, use_reentrant=self.reentrant)
        return hidden


def adversarial() -> Workload:
    """A generator and a discriminator; the plan is for the generator's optimizer."""
    model, judge = perceptron(), perceptron()
    optimizer, other = adamw(model.parameters()), adamw(judge.parameters())
    inputs = torch.randn(ROWS, WIDTH)

    def step() -> torch.Tensor:
        made = model(inputs)
        other.zero_grad()
        (judge(made.detach()).mean() - judge(inputs).mean()).backward()
        other.step()
        optimizer.zero_grad()
        loss: torch.Tensor = -judge(made).mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Workload(model=model, optimizer=optimizer, step=step)


def adversarial_as_one() -> Workload:
    """Two networks in one model, and an optimizer of each."""
    model = nn.ModuleDict({"maker": perceptron(), "judge": perceptron()})
    maker, judge = adamw(model["maker"].parameters()), adamw(model["judge"].parameters())
    inputs = torch.randn(ROWS, WIDTH)

    def step() -> torch.Tensor:
        made = model["maker"](inputs)
        judge.zero_grad()
        (model["judge"](made.detach()).mean() - model["judge"](inputs).mean()).backward()
        judge.step()
        maker.zero_grad()
        loss: torch.Tensor = -model["judge"](made).mean()
        loss.backward()
        maker.step()
        return loss.detach()

    return Workload(model=model, optimizer=bare_optimizer([maker, judge]), step=step)


def updated_in_backward() -> Workload:
    """Each parameter has an optimizer, which steps once the gradient is there and drops it."""
    model = perceptron()
    optimizers: dict[torch.Tensor, torch.optim.Optimizer] = {
        parameter: adamw([parameter]) for parameter in model.parameters()
    }
    inputs = torch.randn(ROWS, WIDTH)

    def update(parameter: torch.Tensor) -> None:
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(update)

    def step() -> torch.Tensor:
        loss = error(model, inputs)
        loss.backward()
        return loss.detach()

    return Workload(model=model, optimizer=bare_optimizer(optimizers), step=step)


def two_kinds_of_optimizer() -> Workload:
    """Matrices are updated by Muon, the rest by AdamW."""
    model = perceptron()
    matrices = torch.optim.Muon([p for p in model.parameters() if p.dim() == 2], lr=1e-3)
    others = adamw([p for p in model.parameters() if p.dim() != 2])
    inputs = torch.randn(ROWS, WIDTH)

    def step() -> torch.Tensor:
        loss = error(model, inputs)
        loss.backward()
        for optimizer in (matrices, others):
            optimizer.step()
            optimizer.zero_grad()
        return loss.detach()

    return Workload(model=model, optimizer=bare_optimizer((matrices, others)), step=step)


def twice_backward() -> Workload:
    """Two gradients of each parameter in one step, as sharpness-aware updates take them."""
    model = perceptron()
    optimizer = adamw(model.parameters())
    inputs = torch.randn(ROWS, WIDTH)

    def step() -> torch.Tensor:
        error(model, inputs).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter.add_(parameter.grad, alpha=0.05)
        optimizer.zero_grad()
        loss = error(model, inputs)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return Workload(model=model, optimizer=optimizer, step=step)


def carried() -> Workload:
    """A hidden state that goes from step to step."""
    model = nn.Sequential(nn.Linear(2 * WIDTH, WIDTH), nn.Tanh())
    optimizer = adamw(model.parameters())
    inputs, state = torch.randn(ROWS, WIDTH), torch.zeros(ROWS, WIDTH)

    def step() -> torch.Tensor:
        nonlocal state
        optimizer.zero_grad()
        hidden = model(torch.cat([inputs, state], dim=1))
        loss: torch.Tensor = (hidden - inputs).square().mean()
        loss.backward()
        optimizer.step()
        state = hidden.detach()
        return loss.detach()

    return Workload(model=model, optimizer=optimizer, step=step)


def prefetching(where: str) -> Workload:
    """Fetches the next batch at some point of the step."""
    model = perceptron()
    optimizer = adamw(model.parameters())
    following = torch.randn(ROWS * 4, WIDTH)

    def fetch(place: str) -> None:
        nonlocal following
        if place == where:
            following = torch.randn(ROWS * 4, WIDTH)

    def step() -> torch.Tensor:
        batch = following
        fetch("start")
        optimizer.zero_grad()
        loss = error(model, batch)
        fetch("middle")
        loss.backward()
        del batch
        optimizer.step()
        fetch("end")
        return loss.detach()

    return Workload(model=model, optimizer=optimizer, step=step)


def fetched_by_a_thread() -> Workload:
    """Another thread fetches the next batch meanwhile: no mode sees its ops."""
    model = perceptron()
    optimizer = adamw(model.parameters())
    batches = [torch.randn(ROWS * 4, WIDTH)]
    device, generator = torch.get_default_device(), torch.Generator().manual_seed(1)

    def fetch() -> None:
        following = torch.randn(ROWS * 4, WIDTH, generator=generator, device="cpu")
        batches.append(following.to(device))

    def step() -> torch.Tensor:
        fetching = threading.Thread(target=fetch)
        optimizer.zero_grad()
        loss = error(model, batches.pop())
        fetching.start()
        loss.backward()
        optimizer.step()
        fetching.join()
        return loss.detach()

    return Workload(model=model, optimizer=optimizer, step=step)


def shared_batches() -> Workload:
    """Batches in shared memory, as workers of a `DataLoader` make them; one or two have arrived."""
    model = perceptron()
    optimizer = adamw(model.parameters())
    device = torch.get_default_device()
    arrived: list[torch.Tensor] = []
    done = itertools.count()

    def fetch() -> torch.Tensor:
        shared = torch.UntypedStorage._new_shared(ROWS * WIDTH * 4)
        batch = torch.empty(0, device="cpu").set_(shared, 0, (ROWS, WIDTH), (WIDTH, 1))
        return batch.copy_(torch.randn(ROWS, WIDTH, device="cpu"))

    def step() -> torch.Tensor:
        while len(arrived) < 1 + next(done) % 2:
            arrived.append(fetch())
        optimizer.zero_grad()
        loss = error(model, arrived.pop(0).to(device))
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Workload(model=model, optimizer=optimizer, step=step)


def by_state_dict() -> Workload:
    """An average is made from the weights' state_dict, and loaded into another network."""
    model = nn.ModuleDict({"online": perceptron(), "target": perceptron().requires_grad_(False)})
    optimizer = adamw(model["online"].parameters())
    average = {name: tensor.clone() for name, tensor in model["online"].state_dict().items()}
    inputs = torch.randn(ROWS, WIDTH)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (error(model["online"], inputs) - error(model["target"], inputs)).square()
        loss.backward()
        optimizer.step()
        for name, tensor in model["online"].state_dict().items():
            average[name].lerp_(tensor, 0.1)
        model["target"].load_state_dict(average)
        return loss.detach()

    return Workload(model=model, optimizer=optimizer, step=step)


def caught_error() -> Workload:
    """An op raises, the training catches that and goes on by another way."""
    model = perceptron()
    optimizer = adamw(model.parameters())
    inputs = torch.randn(ROWS, WIDTH)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        with suppress(RuntimeError):
            (model[0](inputs).relu() @ inputs).sum().backward()
        loss = error(model, inputs)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Workload(model=model, optimizer=optimizer, step=step)


def unseen_batches() -> Workload:
    """Batches made by no op: NumPy's memory, and numbers from Python."""
    model = perceptron()
    optimizer = adamw(model.parameters())
    device = torch.get_default_device()

    def step() -> torch.Tensor:
        batch = torch.from_numpy(torch.randn(ROWS, WIDTH, device="cpu").numpy().copy()).to(device)
        weights = torch.tensor([float(n) for n in range(WIDTH)])
        optimizer.zero_grad()
        loss = (error(model, batch) * weights).mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Workload(model=model, optimizer=optimizer, step=step)


def window_of_batches() -> Workload:
    """The step before fetched the batches that this one adds up."""
    model = perceptron()
    optimizer = adamw(model.parameters())
    ready: list[torch.Tensor] = [torch.randn(ROWS, WIDTH) for _ in range(3)]

    def step() -> torch.Tensor:
        nonlocal ready
        window, ready = ready, []
        total = torch.zeros(())
        while window:
            loss = error(model, window.pop(0)) / 3
            loss.backward()
            total += loss.detach()
        optimizer.step()
        optimizer.zero_grad()
        ready = [torch.randn(ROWS, WIDTH) for _ in range(3)]
        return total

    return Workload(model=model, optimizer=optimizer, step=step)


def generated() -> Workload:
    """Batches from a generator that stands still between steps, holding one."""

    def batches() -> Iterator[torch.Tensor]:
        while True:
            drawn = torch.randn(2 * ROWS, WIDTH)
            yield drawn[:ROWS]
            yield drawn[ROWS:]

    model = perceptron()
    optimizer = adamw(model.parameters())
    stream = batches()

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        total = torch.zeros(())
        for batch in itertools.islice(stream, 2):
            loss = error(model, batch)
            loss.backward()
            total += loss.detach()
        optimizer.step()
        return total

    return Workload(model=model, optimizer=optimizer, step=step)


def averaging() -> Workload:
    """An average of the weights is kept beside them."""
    model = perceptron()
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = adamw(model.parameters())
    inputs = torch.randn(ROWS, WIDTH)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = error(model, inputs)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for kept, new in zip(average.parameters(), model.parameters(), strict=True):
                kept.lerp_(new, 0.1)
        return loss.detach()

    return Workload(model=model, optimizer=optimizer, step=step)


def distilling() -> Workload:
    """A frozen teacher that is part of the model."""
    model = nn.ModuleDict({"student": perceptron(2), "teacher": perceptron(2)})
    model["teacher"].requires_grad_(False)
    optimizer = adamw(model["student"].parameters())
    inputs = torch.randn(ROWS, WIDTH)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        with torch.no_grad():
            wanted = model["teacher"](inputs)
        loss: torch.Tensor = (model["student"](inputs) - wanted).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Workload(model=model, optimizer=optimizer, step=step)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.last.weight = self.first.weight

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.first(inputs)))


def recurrent() -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.GRU(WIDTH, WIDTH)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            outputs: torch.Tensor = self.net(inputs[None])[0][0]
            return outputs

    return Net()


def two_recurrent_layers() -> nn.Module:
    """On CPUs each layer keeps a workspace of a size that nothing shows before it has run."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.LSTM(WIDTH, WIDTH, 2)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            outputs: torch.Tensor = self.net(inputs[:, None].expand(ROWS, 16, WIDTH))[0][:, 0]
            return outputs

    return Net()


def classified_in_time(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Under a mode torch computes it by other ops, and saves other tensors."""
    spoken = model(inputs).view(8, 4, WIDTH).log_softmax(-1)
    heard = torch.ones(4, 2, dtype=torch.long)
    loss: torch.Tensor = nn.functional.ctc_loss(
        spoken, heard, torch.full((4,), 8), torch.full((4,), 2)
    )
    return loss


def normalized() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.Dropout(0.3))


def logging_activations() -> nn.Module:
    """Keeps the last step's activations for a picture."""
    model = perceptron()
    seen: dict[str, torch.Tensor] = {}
    for name, module in model.named_children():
        module.register_forward_hook(
            lambda _, __, output, name=name: seen.__setitem__(name, output.detach())
        )
    return model


def penalty(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """A gradient penalty: backward through backward."""
    probe = inputs.clone().requires_grad_(True)
    slope = torch.autograd.grad(model(probe).square().sum(), probe, create_graph=True)[0]
    return error(model, inputs) + slope.square().mean()


def clip(model: nn.Module) -> None:
    nn.utils.clip_grad_norm_(model.parameters(), 0.1)


def _optimizer(name: str, **settings: Any) -> Build:
    kind = getattr(torch.optim, name)
    return partial(plain, lambda parameters: kind(parameters, lr=1e-3, **settings))


def _variants() -> dict[str, Build]:
    """Every optimizer of torch, one parameter after the other, many at once, and fused."""
    ways: dict[str, dict[str, Any]] = {
        "Adadelta": {}, "Adam": {"amsgrad": True}, "Adamax": {}, "ASGD": {}, "NAdam": {},
        "RAdam": {}, "RMSprop": {"momentum": 0.9, "centered": True}, "Rprop": {},
        "AdamW": {}, "Adagrad": {}, "SGD": {"momentum": 0.9},
    }  # fmt: skip
    fused = ("Adam", "AdamW", "Adagrad", "SGD")
    found: dict[str, Build] = {}
    for name, settings in ways.items():
        found[f"{name}, one by one"] = _optimizer(name, foreach=False, **settings)
        found[f"{name}, foreach"] = _optimizer(name, foreach=True, **settings)
        if name in fused:
            found[f"{name}, fused"] = _optimizer(name, fused=True, **settings)
    found["Adafactor"] = _optimizer("Adafactor")
    found["Muon"] = partial(
        plain,
        lambda parameters: torch.optim.Muon(parameters, lr=1e-3),
        model=partial(perceptron, bias=False),
    )
    return found


STEPS: dict[str, Build] = {
    **_variants(),
    "SparseAdam": partial(
        plain,
        lambda parameters: torch.optim.SparseAdam(list(parameters), lr=1e-3),
        model=lambda: nn.Embedding(64, WIDTH, sparse=True),
        loss=lambda model, tokens: model(tokens).square().mean(),
        source=lambda: one_batch(torch.randint(0, 64, (ROWS,))),
    ),
    "LBFGS": partial(with_closure, lambda p: torch.optim.LBFGS(p, lr=1e-2, max_iter=2)),
    "closure": partial(with_closure, adamw),
    "zero_grad first": plain,
    "zero_grad middle": partial(plain, zero_at="middle"),
    "zero_grad last": partial(plain, zero_at="last"),
    "zero_grad never": partial(plain, zero_at="never"),
    "gradients kept": partial(plain, set_to_none=False),
    "accumulation": partial(plain, batches=3),
    "accumulation, gradients kept": partial(plain, batches=2, set_to_none=False, zero_at="last"),
    "loss with its graph": partial(plain, returned=lambda loss: loss),
    "loss as a clone": partial(plain, returned=lambda loss: loss.detach().clone()),
    "scaler": scaled,
    "checkpoint": partial(plain, model=partial(Checkpointed, reentrant=False)),
    "reentrant checkpoint": partial(plain, model=partial(Checkpointed, reentrant=True)),
    "adversarial": adversarial,
    "adversarial as one": adversarial_as_one,
    "updated in backward": updated_in_backward,
    "two kinds of optimizer": two_kinds_of_optimizer,
    "backward twice": twice_backward,
    "carried state": carried,
    **{f"prefetch {place}": partial(prefetching, place) for place in ("start", "middle", "end")},
    "unseen batches": unseen_batches,
    "fetched by a thread": fetched_by_a_thread,
    "shared batches": shared_batches,
    "by state_dict": by_state_dict,
    "caught error": caught_error,
    "batches in a list": partial(plain, source=listed_batches),
    "batches in a window": window_of_batches,
    "batches from a generator": generated,
    "logged activations": partial(plain, model=logging_activations),
    "averaged weights": averaging,
    "teacher": distilling,
    "tied weights": partial(plain, model=Tied),
    "recurrent": partial(plain, model=recurrent),
    "two recurrent layers": partial(plain, model=two_recurrent_layers),
    "temporal classification": partial(plain, loss=classified_in_time),
    "normalized, dropout": partial(plain, model=normalized),
    "gradient penalty": partial(plain, loss=penalty),
    "clipped": partial(plain, before_update=clip),
}  # fmt: skip
