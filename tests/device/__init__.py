"""An asynchronous accelerator that is always at hand: its memory is the host's, its work is late.

See `tests.device.accelerator`. What runs on it is run in a process of its own: torch counts its
accelerators when the first backward begins, and asks the one there is for all that is pinned.

Besides what `tests/device/on_it` has for it alone, the tests of the emulated accelerator run on it,
the same functions: under the plugin the device is torch's default, and what is marked `cpu_only` is
left out. `tests.device.test_on_it` runs a few of them; all that are known to pass, in half an hour,
each file in a process of its own, since what other tests have left counts as taken:

    for file in tests/runtime/replay/test_{replay,periodic_replay,guarded_steps,hand_over}.py \
        tests/runtime/replay/test_{interrupts,lent_memory,lookup,model_mismatch}.py \
        tests/runtime/replay/test_{leaving_the_plan,between_steps}.py \
        tests/runtime/training/test_{within,load_courses,courses_that_begin_alike}.py \
        tests/runtime/training/test_{loops,trainer}.py tests/runtime/proof/test_{courses,proof}.py \
        tests/runtime/beyond_capacity/test_record.py tests/profiles/recording/test_*.py; do
        python -m pytest -q -n 0 -p no:cacheprovider -p tests.device.on_it_plugin $file
    done

Those of `tests/runtime/recompute/test_trainings.py` pass too, but four only in a process each.
"""
