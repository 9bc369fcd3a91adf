"""`transformers.Trainer` as people run it: padded batches, resumed runs, the end of an epoch."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from profiles.schema.profile_file import read_profile
from runtime.training.course import Way
from runtime.training.planned_training import PlannedTraining
from tests.support.loops.frameworks import WaitingTransformersCallback, tiny_gpt2
from tests.support.loops.loop import TIME_LIMIT_S, Trained, assert_same_training
from tests.support.training.models import seeded

STEPS = 24
Settings = dict[str, Any]


class Sentences(Dataset[dict[str, Any]]):
    """Rows of tokens, each of its own length."""

    def __init__(self, count: int) -> None:
        dice = seeded(0)
        lengths = torch.randint(4, 33, (count,), generator=dice).tolist()
        self._rows = [torch.randint(3, 250, (n,), generator=dice).tolist() for n in lengths]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": self._rows[index]}


def padded(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """`DataCollatorWithPadding`, to one of two lengths, and labels, which it knows nothing of."""
    from tokenizers import Tokenizer, models
    from transformers import DataCollatorWithPadding, PreTrainedTokenizerFast

    words: Any = Tokenizer(models.WordLevel({"[PAD]": 0}, unk_token="[PAD]"))
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]")
    batch = dict(DataCollatorWithPadding(tokenizer, pad_to_multiple_of=16)(rows))
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    return batch | {"labels": labels}


def train(
    folder: Path,
    rows: int,
    *,
    plans: Path | None = None,
    resume: bool = False,
    steps: int = STEPS,
    checkpointing: bool = True,
    **settings: Any,
) -> Trained:
    """Trains tiny GPT-2, within 80% if there is a folder for plans."""
    from transformers import Trainer, TrainingArguments

    callback = None
    if plans is not None:
        callback = WaitingTransformersCallback(
            budget="80%", plans=plans, time_limit_s=TIME_LIMIT_S, checkpointing=checkpointing
        )
    model: Any = tiny_gpt2()
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder),
            max_steps=steps,
            logging_steps=1,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            seed=0,
            **{"save_strategy": "no", "per_device_train_batch_size": 8, **settings},
        ),
        train_dataset=Sentences(rows),
        data_collator=padded,
        callbacks=[] if callback is None else [callback],
    )
    trainer.train(resume_from_checkpoint=resume or None)
    assert trainer.optimizer is not None
    return Trained(
        model=model,
        optimizer=trainer.optimizer,
        losses=[row["loss"] for row in trainer.state.log_history if "loss" in row],
        memory=None if callback is None else callback.memory,
    )


def assert_same(found: Trained, expected: Trained) -> PlannedTraining:
    assert_same_training(found, expected)
    assert found.memory is not None
    return found.memory


# The names that most users have it by.
@pytest.mark.filterwarnings("ignore:.gradient_checkpointing")
def test_a_plan_takes_the_place_of_gradient_checkpointing(tmp_path: Path) -> None:
    how: Settings = {"gradient_checkpointing": True}
    expected = train(tmp_path, 8 * STEPS, **how)
    planned: Settings = {**how, "plans": tmp_path / "plans", "checkpointing": False}
    memory = assert_same(train(tmp_path, 8 * STEPS, **planned), expected)
    assert memory.tally[Way.REPLAYED] > 0
    assert "0 fell back" in memory.summary()
    found = [read_profile(path) for path in (tmp_path / "plans").glob("*.profile.json.gz")]
    assert [profile.without_checkpointing for profile in found] == [True] * len(memory.courses)


def test_padded_batches_have_a_plan_for_each_length(tmp_path: Path) -> None:
    how: Settings = {"per_device_train_batch_size": 2}
    expected = train(tmp_path, 8 * STEPS, **how)
    memory = assert_same(train(tmp_path, 8 * STEPS, plans=tmp_path / "plans", **how), expected)
    assert len(memory.courses) == 2
    assert memory.tally[Way.REPLAYED] > 0
    assert "0 fell back" in memory.summary()


@pytest.mark.filterwarnings("ignore::runtime.FallbackWarning")
def test_a_run_is_resumed_with_its_plans(tmp_path: Path) -> None:
    """From a checkpoint that was saved while a plan had part of the model away.

    What torch reads from a file into host memory cannot be resized: states of the emulated device
    stay there, and a plan that moves them all says that its steps are over the budget.
    """
    saved: Settings = {"save_strategy": "steps", "save_steps": 12}
    expected = train(tmp_path / "plain", 8 * STEPS, **saved)
    first = train(tmp_path / "out", 8 * STEPS, plans=tmp_path / "plans", **saved)
    assert_same(first, expected)
    shutil.rmtree(tmp_path / "out" / f"checkpoint-{STEPS}")
    again = train(tmp_path / "out", 8 * STEPS, plans=tmp_path / "plans", resume=True, **saved)
    memory = assert_same(again, expected)
    assert memory.tally[Way.RECORDED] == 0
    assert memory.tally[Way.REPLAYED] == 12


@pytest.mark.filterwarnings("ignore::runtime.FallbackWarning")
def test_an_epoch_that_ends_with_fewer_batches_has_a_plan_for_that_update(tmp_path: Path) -> None:
    """Of each 9 batches the last is alone; it has as many tokens as the others."""
    how: Settings = {"gradient_accumulation_steps": 2, "steps": 60}
    expected = train(tmp_path, 8 * 9, **how)
    memory = assert_same(train(tmp_path, 8 * 9, plans=tmp_path / "plans", **how), expected)
    assert "0 fell back to resident" in memory.summary()
    replays = [course.replay for course in memory.courses.values()]
    assert len(replays) == 2
    for replay in replays:
        assert replay is not None
        assert replay.steps[-1].followed_plan
