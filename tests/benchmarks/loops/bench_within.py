"""From nothing to the first planned step of a `transformers.Trainer`, and of a second run.

    python -m tests.benchmarks.loops.bench_within --budget 60%

Trains a tiny GPT-2 in one process, imports not counted, until a step has been replayed. Every
figure is measured.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import runtime
from runtime.training.course import Way
from tests.support.loops.frameworks import Rows, tiny_gpt2

MOST_STEPS = 20_000


class UntilPlanned(runtime.TransformersCallback):
    """Ends a training when one of its steps has been replayed."""

    def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> Any:
        """Ends the step, and the training after a replayed one."""
        super().on_step_end(args, state, control, **named)
        assert self.memory is not None
        control.should_training_stop = self.memory.tally[Way.REPLAYED] > 0
        return control


def seconds_to_plan(budget: str, plans: Path) -> tuple[float, UntilPlanned]:
    """Trains until a planned step has ended; returns the seconds, and what called back."""
    from transformers import Trainer, TrainingArguments

    start_s = time.perf_counter()
    callback = UntilPlanned(budget=budget, plans=plans)
    arguments = TrainingArguments(
        output_dir=str(plans / "out"),
        per_device_train_batch_size=8,
        max_steps=MOST_STEPS,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        logging_strategy="no",
    )
    model: Any = tiny_gpt2()
    Trainer(
        model=model, args=arguments, train_dataset=Rows(8 * MOST_STEPS), callbacks=[callback]
    ).train()
    return time.perf_counter() - start_s, callback


def main() -> None:
    """Runs twice with one folder of plans."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", default="60%")
    settings = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for run in ("first", "second"):
            seconds, callback = seconds_to_plan(settings.budget, Path(folder))
            assert callback.memory is not None
            print(f"{run} run: {seconds:.1f} s to the first planned step")
            print(callback.memory.summary())


if __name__ == "__main__":
    main()
