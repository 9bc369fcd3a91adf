"""Sound plans edited at random, with every derived figure made to agree again.

What is left wrong is what no reader can know: names, kinds, sizes, anchors and swaps that are those
of no step, or of another one.
"""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from planner.plan.plan import Plan
from planner.plan.verify import structure_fault
from profiles.schema.errors import FileError
from profiles.schema.link import CopyMethod
from tests.support.planning.hardest_plans import certified, with_swaps

SLOTS = ("swap_out_slot", "release_slot", "swap_in_slot", "await_slot")
AMPLE_BYTES = 2**30
HARDLY_ANY = 0.1
"""How often host offsets are left as they were edited."""


def edited_plans(plan: Plan, seed: int) -> Iterator[Plan]:
    """Yields edited plans that a reader accepts, without end."""
    rng = random.Random(seed)
    sound = json.loads(plan.model_dump_json())
    while True:
        content = json.loads(json.dumps(sound))
        for _ in range(rng.choice((1, 1, 2, 3, 5))):
            rng.choice(EDITS)(rng, content)
        # Beyond a budget training ends, and hardly anything would be tried.
        content["budget_bytes"] = rng.choice((content["budget_bytes"], AMPLE_BYTES))
        found = agreeing(content, keep_offsets=rng.random() < HARDLY_ANY)
        if found is not None and found != plan:
            yield found


def agreeing(content: Any, *, keep_offsets: bool) -> Plan | None:
    """The plan with every figure that follows from others derived anew; None if it is unsound."""
    content["swaps"].sort(key=lambda swap: swap["swap_out_slot"])
    try:
        loose = _unchecked(content)
        if structure_fault_of_swaps(loose):
            return None
        found = certified(loose) if keep_offsets else with_swaps(loose, loose.swaps)
    except (ValueError, LookupError, FileError):
        return None
    budget_bytes = max(loose.budget_bytes, found.budget_bytes)
    return found.model_copy(update={"budget_bytes": budget_bytes})


def structure_fault_of_swaps(plan: Plan) -> bool:
    """Whether anything is wrong but figures that are derived anew."""
    fault = structure_fault(plan)
    derived = ("host_pool_bytes", "host_offset_bytes", "budget_bytes", "resident_bytes")
    return fault is not None and not any(word in fault for word in derived)


def _unchecked(content: Any) -> Plan:
    """The plan's records, whatever they say together."""
    return Plan.model_validate_json(json.dumps(content))


def _move_slot(rng: random.Random, plan: Any) -> None:
    swap = rng.choice(plan["swaps"])
    field = rng.choice(SLOTS)
    count = len(plan["slots"])
    swap[field] = (swap[field] + rng.choice((-5, -2, -1, 1, 2, 5, rng.randrange(count)))) % count


def _shift_swap(rng: random.Random, plan: Any) -> None:
    swap, by = rng.choice(plan["swaps"]), rng.randrange(len(plan["slots"]))
    for field in SLOTS:
        swap[field] = (swap[field] + by) % len(plan["slots"])


def _exchange_slots(rng: random.Random, plan: Any) -> None:
    one, other = rng.choice(plan["swaps"]), rng.choice(plan["swaps"])
    for field in SLOTS:
        one[field], other[field] = other[field], one[field]


def _add_swap(rng: random.Random, plan: Any) -> None:
    count = len(plan["slots"])
    slots = sorted(rng.randrange(count) for _ in SLOTS)
    turn = rng.randrange(count) if rng.random() < 0.5 else 0
    swap = dict(rng.choice(plan["swaps"]))
    swap["storage"] = rng.choice(plan["storages"])["id"]
    swap |= {field: (slot + turn) % count for field, slot in zip(SLOTS, slots, strict=True)}
    plan["swaps"].append(swap)


def _drop_swap(rng: random.Random, plan: Any) -> None:
    plan["swaps"].remove(rng.choice(plan["swaps"]))


def _flip_clean(rng: random.Random, plan: Any) -> None:
    swap = rng.choice(plan["swaps"])
    swap["clean"] = not swap["clean"]
    if swap["clean"]:
        swap["release_slot"] = swap["swap_out_slot"]


def _change_storage(rng: random.Random, plan: Any) -> None:
    one, other = rng.choice(plan["swaps"]), rng.choice(plan["storages"])
    for swap in [s for s in plan["swaps"] if s["storage"] == one["storage"]]:
        swap["storage"] = other["id"]


def _exchange_names(rng: random.Random, plan: Any) -> None:
    one, other = rng.choice(plan["storages"]), rng.choice(plan["storages"])
    for field in rng.choice((("name", "kind"), ("name", "kind", "size_bytes", "is_mask"))):
        one[field], other[field] = other[field], one[field]


def _rename(rng: random.Random, plan: Any) -> None:
    storage = rng.choice(plan["storages"])
    _, _, name = rng.choice(plan["storages"])["name"].partition(":")
    kinds = {
        "parameter": "parameter",
        "buffer": "buffer",
        "grad": "gradient",
        "state": "optimizer_state",
        "pack": "activation",
    }
    new = rng.choice(tuple(kinds))
    ending = rng.choice(("", "", ".exp_avg", ".step", ".running_mean", ".num_batches_tracked"))
    storage["name"], storage["kind"] = f"{new}:{name}{ending}", kinds[new]


def _resize(rng: random.Random, plan: Any) -> None:
    storage = rng.choice(plan["storages"])
    same = rng.choice(plan["storages"])["size_bytes"]
    storage["size_bytes"] = rng.choice((same, storage["size_bytes"] * 2, 4, 0))


def _show_other(rng: random.Random, plan: Any) -> None:
    one, other = rng.choice(plan["slots"]), rng.choice(plan["slots"])
    one["shows"], other["shows"] = other["shows"], one["shows"]


def _show_any(rng: random.Random, plan: Any) -> None:
    rng.choice(plan["slots"])["shows"] = rng.choice((None, rng.choice(plan["storages"])["id"]))


def _rename_anchor(rng: random.Random, plan: Any) -> None:
    one, other = rng.choice(plan["slots"][1:-1]), rng.choice(plan["slots"][1:-1])
    one["anchor"], other["anchor"] = other["anchor"], one["anchor"]


def _drop_slot(rng: random.Random, plan: Any) -> None:
    at = rng.randrange(1, len(plan["slots"]) - 1)
    del plan["slots"][at]
    for swap in plan["swaps"]:
        for field in SLOTS:
            swap[field] -= swap[field] > at


def _engine(rng: random.Random, plan: Any) -> None:
    one = rng.choice(plan["swaps"])
    engine = rng.choice([engine.value for engine in CopyMethod])
    for swap in plan["swaps"]:
        if swap["storage"] == one["storage"]:
            swap["engine"] = engine
    plan["link"]["engines"] = [
        {
            "engine": engine,
            "size_bytes": 1024,
            "together": rng.choice((1, 4)),
            "d2h_bytes_per_us": 50_000.0,
            "h2d_bytes_per_us": 50_000.0,
        }
    ]
    if rng.random() < 0.5:
        plan["storages"][0]["is_mask"] = True
        for storage in plan["storages"]:
            storage["is_mask"] = storage["is_mask"] or storage["id"] == one["storage"]


def _offset(rng: random.Random, plan: Any) -> None:
    swap = rng.choice(plan["swaps"])
    swap["host_offset_bytes"] = rng.choice((1, 3, 8, 4096, swap["host_offset_bytes"] + 1))


def _odd_figures(rng: random.Random, plan: Any) -> None:
    field = rng.choice(("memory_bytes", "min_size_bytes", "seed", "boundary", "latency_us"))
    if field == "memory_bytes":
        plan["device"][field] = rng.choice((0, 1, 2**62))
    elif field == "seed":
        plan["workload"][field] = rng.choice((-1, 2**70, 3))
    elif field == "boundary":
        plan[field] = rng.choice(("periodic", "resident"))
    elif field == "latency_us":
        plan["link"][field] = rng.choice((0.0, 10.0))
    else:
        plan[field] = rng.choice((0, 2**62))


EDITS: tuple[Callable[[random.Random, Any], None], ...] = (
    *(_move_slot, _move_slot, _move_slot, _shift_swap, _exchange_slots, _add_swap, _add_swap),
    *(_drop_swap, _flip_clean, _flip_clean, _change_storage, _change_storage, _exchange_names),
    *(_rename, _resize, _show_other, _show_any, _rename_anchor, _drop_slot, _engine, _engine),
    *(_offset, _odd_figures),
)
