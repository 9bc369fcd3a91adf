"""Steps recorded with the model's checkpointing switched off: those of the model that has none."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch.utils.checkpoint
from torch.utils.checkpoint import CheckpointFunction

from profiles import Recorder
from profiles.hooks.workload import Workload
from profiles.schema.profile import Profile
from profiles.schema.profile_file import read_profile, write_profile
from runtime.beyond_capacity.record import record_beyond_capacity
from tests.support.checkpointed import KINDS, WAYS, Blocks, plainly, workload
from tests.support.planning.edited_files import PROFILE, content_of, write_json
from tests.support.training.estimating import assert_same_step, estimated
from tests.support.training.fake_time import counting_tools
from tests.support.training.fixed_times import FAST_LINK, UNNAMED, record_at_fixed_times

KIB = 1024


def in_a_loop(it: Workload, *, checkpointing: bool) -> Profile:
    recorder = Recorder(
        it.model, it.optimizer, instruments=counting_tools(), checkpointing=checkpointing
    )
    while not recorder.is_done:
        with recorder.step():
            it.step()
    return recorder.profile(link=FAST_LINK)


def beyond_capacity(it: Workload, *, checkpointing: bool) -> Profile:
    return record_beyond_capacity(
        it,
        source=UNNAMED,
        link=FAST_LINK,
        limit_bytes=600 * KIB,
        timed_steps=1,
        instruments=counting_tools(),
        checkpointing=checkpointing,
    )


Record = Callable[..., Profile]


def op_names(profile: Profile) -> list[str]:
    return [op.name for op in profile.ops]


@pytest.mark.parametrize(
    ("record", "way"),
    [
        *((record_at_fixed_times, way) for way in WAYS),
        *((record, way) for record in (in_a_loop, beyond_capacity) for way in KINDS),
    ],
)
def test_the_step_is_that_of_the_model_that_has_none(record: Record, way: str) -> None:
    plain = record(workload(partial(Blocks, plainly)), checkpointing=True)
    found = record(workload(WAYS[way]), checkpointing=False)
    assert (plain.without_checkpointing, found.without_checkpointing) == (False, True)
    assert op_names(found) == op_names(plain)
    assert [slot.shows for slot in found.slots] == [slot.shows for slot in plain.slots]
    assert [s.size_bytes for s in found.storages] == [s.size_bytes for s in plain.storages]
    kept = record(workload(WAYS[way]), checkpointing=True)
    assert not kept.without_checkpointing
    assert len(kept.ops) > len(found.ops)


@pytest.mark.cpu_only
@pytest.mark.parametrize("way", KINDS)
def test_an_estimate_without_it_is_of_the_recorded_step(way: str) -> None:
    build = partial(workload, WAYS[way])
    found = estimated(build, checkpointing=False)
    assert found.without_checkpointing
    assert_same_step(found, record_at_fixed_times(build(), checkpointing=False))
    assert torch.utils.checkpoint.CheckpointFunction is CheckpointFunction


def test_a_step_that_raises_leaves_nothing_replaced() -> None:
    it = workload(WAYS["reentrant"])
    recorder = Recorder(it.model, it.optimizer, instruments=counting_tools(), checkpointing=False)

    def fails() -> None:
        with recorder.step():
            assert torch.utils.checkpoint.CheckpointFunction is not CheckpointFunction
            raise LookupError

    with pytest.raises(LookupError):
        fails()
    assert torch.utils.checkpoint.CheckpointFunction is CheckpointFunction
    recorder.close()


def test_a_file_says_it_and_an_older_one_was_recorded_with_it(tmp_path: Path) -> None:
    path = tmp_path / "x.profile.json"
    without = PROFILE.model_copy(update={"without_checkpointing": True})
    write_profile(without, path)
    assert read_profile(path) == without
    assert without.fingerprint() != PROFILE.fingerprint()
    older = content_of(PROFILE)
    del older["without_checkpointing"]
    write_json(older, path)
    assert read_profile(path) == PROFILE
