"""Loops that frameworks run, or help to write."""

import warnings
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.utils.data import Dataset

import runtime
from profiles.hooks.workload import bare_optimizer
from tests.support.loops.loop import Around, Settings, Trained, layers
from tests.support.loops.plain import STEPS, batches
from tests.support.training.models import seeded


class Rows(Dataset[dict[str, torch.Tensor]]):
    """Rows of tokens, the same each time."""

    def __init__(self, count: int, length: int = 32) -> None:
        dice = seeded(0)
        self._rows = torch.randint(0, 250, (count, length), generator=dice)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self._rows[index], "labels": self._rows[index]}


def tiny_gpt2() -> nn.Module:
    """A GPT-2 with dropout, as it comes."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = {"vocab_size": 256, "n_positions": 32, "n_embd": 64, "n_layer": 3, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))


def accelerate(settings: Settings | None) -> Trained:
    """`accelerator.accumulate` over two batches, the step around both."""
    from accelerate import Accelerator

    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model: Any = layers()
    optimizer: Any = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model, optimizer, rows = accelerator.prepare(model, optimizer, batches(2 * STEPS))
    trained = Trained(model=model, optimizer=optimizer)
    around = Around(trained, settings)
    step = None
    for number, (batch,) in enumerate(rows):
        if number % 2 == 0:
            step = around.step()
            step.__enter__()
        with accelerator.accumulate(model):
            loss = (model(batch) - batch).square().mean()
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        if number % 2 == 1:
            assert step is not None
            step.__exit__(None, None, None)
        trained.losses.append(loss.item())
    around.close()
    return trained


def lora(settings: Settings | None) -> Trained:
    """PEFT: the base is frozen, adapters train, with dropout."""
    return _adapted(tiny_gpt2(), settings, target_modules=["c_attn"], fan_in_fan_out=True)


def lora_on_integers(settings: Settings | None, folder: Path, *, bits: int) -> Trained:
    """The same on a base whose frozen weights have 8 or 4 bits, by bitsandbytes."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 256, "hidden_size": 64, "intermediate_size": 128}
    heads = {"num_hidden_layers": 3, "num_attention_heads": 2}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**sizes, **heads)).save_pretrained(folder)
    how = BitsAndBytesConfig(
        load_in_8bit=bits == 8, load_in_4bit=bits == 4, bnb_4bit_compute_dtype=torch.float32
    )
    base = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=how, device_map="cpu", dtype=torch.float32
    )
    return _adapted(base, settings, target_modules=["q_proj", "v_proj"])


def _adapted(base: Any, settings: Settings | None, **how: Any) -> Trained:
    from peft import LoraConfig, get_peft_model

    adapters = LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", lora_dropout=0.1, **how)
    torch.manual_seed(1)
    with warnings.catch_warnings():
        # It asks for what transformers has renamed.
        warnings.simplefilter("ignore", FutureWarning)
        model = get_peft_model(base, adapters)
    model.train()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-3)
    trained = Trained(model=model, optimizer=optimizer)
    around = Around(trained, settings)
    dice = seeded(1)
    for _ in range(STEPS):
        tokens = torch.randint(0, 256, (8, 32), generator=dice)
        with around.step():
            loss = model(input_ids=tokens, labels=tokens).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        trained.losses.append(loss.item())
    around.close()
    return trained


def transformers_trainer(
    settings: Settings | None, folder: Path, *, accumulation: int = 1, evaluates: bool = False
) -> Trained:
    """`transformers.Trainer` over tiny GPT-2."""
    from transformers import Trainer, TrainingArguments

    callback = _waiting(settings)
    evaluation = {"eval_strategy": "steps", "eval_steps": 5} if evaluates else {}
    arguments = TrainingArguments(
        gradient_accumulation_steps=accumulation, **_all_alike(folder), **evaluation
    )
    model: Any = tiny_gpt2()
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=Rows(8 * STEPS * accumulation),
        eval_dataset=Rows(16) if evaluates else None,
        callbacks=[] if callback is None else [callback],
    )
    return _train(trainer, model, callback)


def supervised_finetuning(settings: Settings | None, folder: Path) -> Trained:
    """TRL's `SFTTrainer` over tiny GPT-2, with what it sets by itself."""
    from datasets import Dataset as Table
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    callback = _waiting(settings)
    dice = seeded(0)
    rows = [torch.randint(2, 250, (24,), generator=dice).tolist() for _ in range(8 * STEPS)]
    words = Tokenizer(WordLevel({"<pad>": 0, "<end>": 1, "<unknown>": 2}, unk_token="<unknown>"))
    with warnings.catch_warnings():
        # It asks for what transformers has renamed.
        warnings.simplefilter("ignore", FutureWarning)
        arguments = SFTConfig(bf16=False, **_all_alike(folder))
    model: Any = tiny_gpt2()
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=Table.from_dict({"input_ids": rows}),
        processing_class=PreTrainedTokenizerFast(
            tokenizer_object=words, pad_token="<pad>", eos_token="<end>"
        ),
        callbacks=[] if callback is None else [callback],
    )
    return _train(trainer, model, callback)


def _all_alike(folder: Path) -> dict[str, Any]:
    """Returns what trainers of `transformers` are told here, whichever they are."""
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": 8,
        "max_steps": STEPS,
        "logging_steps": 1,
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 0,
    }


def _waiting(settings: Settings | None) -> "WaitingTransformersCallback | None":
    return None if settings is None else WaitingTransformersCallback(**settings.arguments())


def _train(trainer: Any, model: Any, callback: "WaitingTransformersCallback | None") -> Trained:
    trainer.train()
    logged = trainer.state.log_history
    losses = [row[key] for row in logged for key in ("loss", "eval_loss") if key in row]
    assert trainer.optimizer is not None
    return Trained(
        model=model,
        optimizer=trainer.optimizer,
        losses=losses,
        memory=None if callback is None else callback.memory,
    )


class WaitingTransformersCallback(runtime.TransformersCallback):
    """Waits for plans, so that as many steps as possible are replayed."""

    def on_step_begin(self, *arguments: Any, **named: Any) -> None:
        """Waits, then begins."""
        assert self.memory is not None
        self.memory.wait_for_plans()
        super().on_step_begin(*arguments, **named)


def lightning(
    settings: Settings | None,
    *,
    accumulation: int = 1,
    clips: bool = False,
    precision: str | None = None,
) -> Trained:
    """`lightning.Trainer` with automatic optimization."""
    import lightning as L

    class Net(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.body = layers()
            self.seen: list[float] = []

        def training_step(self, batch: Any, number: int) -> torch.Tensor:
            (rows,) = batch
            loss = (self.body(rows) - rows).square().mean()
            self.seen.append(loss.item())
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    torch.manual_seed(0)
    return _fit(
        Net(),
        settings,
        STEPS * accumulation,
        accumulate_grad_batches=accumulation,
        gradient_clip_val=1.0 if clips else None,
        precision=precision,
    )


def lightning_by_hand(settings: Settings | None) -> Trained:
    """`lightning.Trainer` with manual optimization of two networks that train each other."""
    import lightning as L

    class Pair(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.maker, self.judge = layers(3), layers(3)
            self.seen: list[float] = []

        def training_step(self, batch: Any, number: int) -> None:
            (rows,) = batch
            for_maker, for_judge = cast(Any, self.optimizers())
            self.toggle_optimizer(for_judge)
            judged = self.judge(self.maker(rows).detach()).mean() - self.judge(rows).mean()
            for_judge.zero_grad()
            self.manual_backward(judged)
            for_judge.step()
            self.untoggle_optimizer(for_judge)
            self.toggle_optimizer(for_maker)
            loss = -self.judge(self.maker(rows)).mean()
            for_maker.zero_grad()
            self.manual_backward(loss)
            for_maker.step()
            self.untoggle_optimizer(for_maker)
            self.seen.append(loss.item())

        def configure_optimizers(self) -> list[torch.optim.Optimizer]:
            return [
                torch.optim.AdamW(self.maker.parameters(), lr=1e-3),
                torch.optim.AdamW(self.judge.parameters(), lr=1e-3),
            ]

    torch.manual_seed(0)
    # Each update counts as a step there.
    return _fit(Pair(), settings, STEPS, max_steps=2 * STEPS)


def _fit(net: Any, settings: Settings | None, count: int, **how: Any) -> Trained:
    import lightning as L

    class Waiting(runtime.LightningCallback):
        def on_train_batch_start(self, *arguments: Any) -> None:
            if self.memory is not None:
                self.memory.wait_for_plans()
            super().on_train_batch_start(*arguments)

    callback = None if settings is None else Waiting(**settings.arguments())
    trainer = L.Trainer(
        **{"max_steps": STEPS, **how},
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[] if callback is None else [callback],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(net, batches(count))
    return Trained(
        model=net,
        optimizer=bare_optimizer(trainer.optimizers),
        losses=net.seen,
        memory=None if callback is None else callback.memory,
    )
