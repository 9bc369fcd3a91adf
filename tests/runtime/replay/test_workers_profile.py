"""What DistributedDataParallel changes in a step, seen in this process as the only worker."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from profiles.hooks.data_parallel import backend_of, data_parallel, group_of_one, unwrapped
from profiles.hooks.named_storages import describe_model
from profiles.hooks.workload import Workload
from profiles.schema.errors import PlanMismatchError, WorkloadError
from profiles.schema.profile import LeftOut, Link, Storage, StorageKind
from runtime import LoadedPlan
from runtime.host.host_memory import MIB
from runtime.replay.workers import Vote, Workers, first_disagreement, slowest_link
from tests.support.planning.hardest_plans import everything_away
from tests.support.training.fixed_times import FAST_LINK
from tests.support.training.models import BUILDERS
from tests.support.training.recorded import everything_away_plan, recorded
from tests.worker_programs.cases import recorded_alone, wrapped


@pytest.fixture(name="alone")
def _alone() -> Iterator[None]:
    with group_of_one():
        yield


def exchanged(storages: tuple[Storage, ...]) -> list[Storage]:
    return [storage for storage in storages if storage.left_out is LeftOut.EXCHANGED]


def test_gradients_go_over_what_torch_has_for_the_device() -> None:
    assert [backend_of(kind) for kind in ("cpu", "cuda")] == ["gloo", "nccl"]
    with pytest.raises(WorkloadError, match="torch has no collectives for workers on 'meta'"):
        backend_of("meta")


@pytest.mark.usefixtures("alone")
def test_workers_report_from_host_memory_whatever_device_tensors_are_made_on() -> None:
    group = distributed.group.WORLD
    assert group is not None
    with torch.device("meta"):
        workers = Workers(group)
        workers.report(fell_back=True)
        assert workers.wait() == 0
        workers.close()


def test_the_anchors_are_those_of_the_plain_step() -> None:
    plain, wrapped_one = recorded("unet3d"), recorded_alone("unet3d")
    assert [slot.anchor for slot in wrapped_one.slots] == [slot.anchor for slot in plain.slots]
    assert len(wrapped_one.ops) > len(plain.ops)
    assert wrapped_one.model_fingerprint != plain.model_fingerprint


def test_buckets_stay_and_count_all_the_time() -> None:
    profile = recorded_alone("unet3d")
    (bucket,) = exchanged(profile.storages)
    assert (bucket.kind, bucket.shown_at) == (StorageKind.GRADIENT, None)
    assert (bucket.allocated_op, bucket.released_op) == (None, None)
    gradients = [s for s in profile.storages if s.name.startswith("grad:") and not s.left_out]
    assert bucket.size_bytes == sum(gradient.size_bytes for gradient in gradients)
    parameters = [s for s in profile.storages if s.kind is StorageKind.PARAMETER]
    assert len(gradients) == len(parameters)


def test_gradients_that_are_views_of_a_bucket_stay_with_it() -> None:
    profile = recorded_alone("kept_gradients")
    (bucket,) = exchanged(profile.storages)
    assert [s for s in profile.storages if s.kind is StorageKind.GRADIENT] == [bucket]
    assert all(slot.shows != bucket.id for slot in profile.slots)
    plan = everything_away(profile)
    assert bucket.id not in {swap.storage for swap in plan.swaps}


@pytest.mark.usefixtures("alone")
def test_what_a_plan_is_for_says_how_the_model_is_wrapped() -> None:
    plain, copied, viewed = BUILDERS["unet3d"](), wrapped("unet3d"), wrapped("unet3d", view=True)
    fingerprints = {
        describe_model(w.model, w.optimizer).fingerprint() for w in (plain, copied, viewed)
    }
    assert len(fingerprints) == 3
    with pytest.raises(PlanMismatchError, match="without DistributedDataParallel"):
        LoadedPlan(everything_away_plan("unet3d")).attach(copied.model, copied.optimizer)


@pytest.mark.usefixtures("alone")
def test_a_wrapped_workload_is_not_wrapped_again() -> None:
    once = wrapped("unet3d")
    assert data_parallel(once) is once
    assert isinstance(once.model, DistributedDataParallel)
    assert not isinstance(unwrapped(once.model), DistributedDataParallel)


@pytest.mark.usefixtures("alone")
def test_a_step_that_calls_parts_of_its_model_is_refused() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step() -> torch.Tensor:
        loss = model[1](model[0](torch.ones(2, 4))).sum()
        loss.backward()
        return loss

    workload = data_parallel(Workload(model=model, optimizer=optimizer, step=step))
    with pytest.raises(WorkloadError, match="never calls its model"):
        workload.step()


def vote(**changed: Any) -> Vote:
    same = Vote(
        fault=None,
        digest="1",
        budget_bytes=9,
        link=FAST_LINK,
        pool_bytes=40 * MIB,
        host="a",
        host_free_bytes=100 * MIB,
    )
    return replace(same, **changed)


def test_workers_of_one_host_share_its_memory() -> None:
    assert first_disagreement([vote(), vote(), vote(host="b"), vote(host="b")]) is None
    told = first_disagreement([vote(host="b"), vote(), vote(host_free_bytes=99 * MIB), vote()])
    assert told == (
        "The host pools of 3 workers on a need 120.00 MiB, it has 99.00 MiB free. Train with fewer "
        "swaps: plan for less with 'plan solve --workers 3 --host-budget 99MiB'."
    )


def test_workers_keep_to_the_slowest_link() -> None:
    def link(d2h: float, h2d: float, both: float | None, latency_us: float) -> Link:
        return FAST_LINK.model_copy(
            update={
                "d2h_bytes_per_us": d2h,
                "h2d_bytes_per_us": h2d,
                "both_bytes_per_us": both,
                "latency_us": latency_us,
            }
        )

    slowest = slowest_link([link(9, 5, None, 1), link(7, 6, 10, 3), link(8, 8, 12, 2)])
    assert slowest == link(7, 5, 10, 3)
    assert slowest_link([FAST_LINK, FAST_LINK]) == FAST_LINK
