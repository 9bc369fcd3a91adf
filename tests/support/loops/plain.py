"""Loops that only use torch."""

import copy
from collections.abc import Iterator

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from profiles.hooks.workload import bare_optimizer
from tests.support.loops.loop import Around, Settings, Trained, layers
from tests.support.training.models import seeded

STEPS = 12
ROWS = 512


def batches(count: int, rows: int = ROWS, width: int = 64) -> DataLoader[tuple[torch.Tensor, ...]]:
    """The same numbers each time."""
    numbers = torch.randn(count * rows, width, generator=seeded(1))
    return DataLoader(TensorDataset(numbers), batch_size=rows)


def with_all_the_trimmings(settings: Settings | None) -> Trained:
    """Clipping, a schedule, a moving average, evaluation and a checkpoint between steps."""
    torch.manual_seed(0)
    model = layers()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
    average = torch.optim.swa_utils.AveragedModel(model)
    trained = Trained(model=model, optimizer=optimizer)
    around = Around(trained, settings)
    checkpoint = {}
    for number, (batch,) in enumerate(batches(STEPS)):
        with around.step():
            optimizer.zero_grad()
            loss = (model(batch) - batch).square().mean()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        average.update_parameters(model)
        trained.losses.append(loss.item())
        if number % 5 == 4:
            with torch.no_grad():
                trained.losses.append(model(batch[:7]).sum().item())
            checkpoint = copy.deepcopy(model.state_dict())
    around.close()
    trained.losses.extend(float(value.sum()) for value in checkpoint.values())
    trained.losses.extend(float(value.sum()) for value in average.state_dict().values())
    return trained


def scaled(settings: Settings | None) -> Trained:
    """Autocast, a loss scaler, two micro-batches."""
    torch.manual_seed(0)
    model = layers(4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cpu")
    trained = Trained(model=model, optimizer=optimizer)
    around = Around(trained, settings)
    rows = iter(batches(2 * STEPS))
    for _ in range(STEPS):
        with around.step():
            optimizer.zero_grad()
            for _ in range(2):
                (batch,) = next(rows)
                with torch.autocast("cpu", dtype=torch.float16):
                    loss = (model(batch) - batch).square().mean() / 2
                scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
        trained.losses.append(loss.item())
    around.close()
    return trained


def recipe(settings: Settings | None) -> Trained:
    """As torchtune's recipes: one flat loop that accumulates, normalises by tokens, and logs."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(64, 64), *layers(4), nn.Linear(64, 64))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    trained = Trained(model=model, optimizer=optimizer)
    around = Around(trained, settings)
    running: torch.Tensor | float = 0.0
    tokens_seen, step = 0, None
    for number, tokens in enumerate(_tokens(2 * STEPS)):
        if number % 2 == 0:
            step = around.step()
            step.__enter__()
        current = tokens.numel()
        logits = model(tokens[:, :-1])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()) * current
        running = running + loss.detach()
        tokens_seen += current
        loss.backward()
        if number % 2 == 1:
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter.grad /= tokens_seen
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            trained.losses.append(float(running) / tokens_seen)
            running, tokens_seen = 0.0, 0
            assert step is not None
            step.__exit__(None, None, None)
    around.close()
    return trained


def adversarial(settings: Settings | None) -> Trained:
    """Two networks that train each other, each with its optimizer."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"maker": layers(3), "judge": layers(3)})
    maker, judge = model["maker"], model["judge"]
    for_maker = torch.optim.AdamW(maker.parameters(), lr=1e-3)
    for_judge = torch.optim.SGD(judge.parameters(), lr=1e-2, momentum=0.9)
    trained = Trained(model=model, optimizer=bare_optimizer([for_maker, for_judge]))
    around = Around(trained, settings)
    for (batch,) in batches(STEPS):
        with around.step():
            made = maker(batch)
            for_judge.zero_grad()
            (judge(made.detach()).mean() - judge(batch).mean()).backward()
            for_judge.step()
            for_maker.zero_grad()
            loss = -judge(made).mean()
            loss.backward()
            for_maker.step()
        trained.losses.append(loss.item())
    around.close()
    return trained


def updated_in_backward(settings: Settings | None) -> Trained:
    """As torchtune's `optimizer_in_bwd`: each parameter updated once its gradient is there."""
    torch.manual_seed(0)
    model = layers()
    optimizers = {p: torch.optim.AdamW([p], lr=1e-3, fused=True) for p in model.parameters()}

    def update(parameter: nn.Parameter) -> None:
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(update)
    trained = Trained(model=model, optimizer=bare_optimizer(optimizers))
    around = Around(trained, settings)
    for (batch,) in batches(STEPS):
        with around.step():
            loss = (model(batch) - batch).square().mean()
            loss.backward()
        trained.losses.append(loss.item())
    around.close()
    return trained


def _tokens(count: int) -> Iterator[torch.Tensor]:
    dice = seeded(1)
    for _ in range(count):
        yield torch.randint(0, 64, (16, 33), generator=dice)


def variable_lengths(settings: Settings | None) -> Trained:
    """Batches padded to the longest of them: three lengths in turn, at random."""
    torch.manual_seed(0)
    model = layers(4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    trained = Trained(model=model, optimizer=optimizer)
    around = Around(trained, settings)
    dice = seeded(1)
    for _ in range(40):
        length = (128, 256, 512)[int(torch.randint(0, 3, (1,), generator=dice))]
        batch = torch.randn(length, 64, generator=dice)
        with around.step():
            loss = (model(batch) - batch).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        trained.losses.append(loss.item())
    around.close()
    return trained
