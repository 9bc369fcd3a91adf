"""Who may import whom, and how large what they hold may be: three floors in one line, and on each
floor rooms in one order.

A room is a folder. A line in it may import from its own room, from rooms before it on its floor,
and from the rooms of lower floors that the table opens to it. Imports inside functions count too;
`TYPE_CHECKING` blocks never run and do not count.
"""

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.test_help import COMMANDS
from tests.support.commands import ROOT, python

FLOORS = {
    "profiles": (
        "schema",
        "hardware",
        "hooks",
        "recording",
        "estimating",
        "workloads",
        "library",
    ),
    "planner": (
        "plan",
        "problem",
        "recompute",
        "heuristics",
        "ilp",
        "search",
        "",
        "studies",
        "report",
        "cli",
    ),
    "runtime": (
        "host",
        "kernels",
        "lanes",
        "storage",
        "recompute",
        "beyond_capacity",
        "replay",
        "training",
        "proof",
        "cli",
    ),
}
"""Each floor's rooms, lowest first. The room without a name is the floor's own files."""
OPEN = {
    "profiles": {},
    "planner": {"profiles": {"schema", "hardware", "library"}},
    "runtime": {"profiles": set(FLOORS["profiles"]), "planner": {"plan"}},
    "runtime.cli": {"planner": set(FLOORS["planner"])},
}
"""What each floor, or one room of it, sees of the floors below."""
OF_CUDA_ALONE = {
    "profiles/estimating/build_without_memory.py": "a GPU is pretended that may not be there",
    "profiles/estimating/pretend_cuda.py": "a GPU is pretended that may not be there",
    "profiles/recording/kernel_times.py": "torch's profiler times kernels of CUDA",
    "runtime/host/host_pool.py": "memory that torch did not allocate is pinned by CUDA's runtime",
    "runtime/host/numa.py": "a GPU's place among the sockets is found by its PCI address",
    "runtime/kernels/cuda_carrier.py": "Numba's kernels run in torch's CUDA context",
    "runtime/replay/timeline.py": "NVTX ranges are for CUDA's own tools",
}
"""Files that ask `torch.cuda`, and why; all else asks `torch.accelerator` or a device's module."""
TORCH_FREE = ("profiles.schema", "profiles.hardware", "planner")
SOLVERS = ("pulp", "highspy")


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_type_checking(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    )


def imported(node: ast.AST, *, in_functions: bool = True) -> Iterator[str]:
    """Every module that running this code may import."""
    for child in ast.iter_child_nodes(node):
        if is_type_checking(child):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            assert child.module is not None
            yield child.module
        elif in_functions or not isinstance(child, ast.FunctionDef):
            yield from imported(child, in_functions=in_functions)


def is_in(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def place(module: str) -> tuple[str, str]:
    """The floor and the room of a module."""
    floor, *rest = module.removesuffix(".__main__").split(".")
    if module == f"{floor}.__main__":
        return floor, "cli"
    return floor, rest[0] if rest and rest[0] in FLOORS[floor] else ""


def may_import(module: str, name: str) -> bool:
    """The table."""
    if name.split(".")[0] not in FLOORS:
        solver = is_in(name, *SOLVERS) and not is_in(module, "planner.ilp")
        return not solver and not (is_in(name, "torch") and is_in(module, *TORCH_FREE))
    (floor, room), (other_floor, other_room) = place(module), place(name)
    if floor == other_floor:
        rooms = FLOORS[floor]
        return rooms.index(other_room) <= rooms.index(room)
    seen = OPEN[floor] | OPEN.get(f"{floor}.{room}", {})
    return other_room in seen.get(other_floor, ())


@pytest.mark.parametrize("floor", FLOORS)
def test_imports_follow_the_table(floor: str) -> None:
    assert sources(floor)
    broken = [
        f"{module_name(path)} imports {name}"
        for path in sources(floor)
        if module_name(path) != floor  # its public names, each imported on first use
        for name in imported(ast.parse(path.read_text()))
        if not may_import(module_name(path), name)
    ]
    assert broken == []


@pytest.mark.parametrize("floor", FLOORS)
def test_every_folder_is_a_room_and_says_what_it_is_for(floor: str) -> None:
    folders = {path.parent for path in sources(floor)} - {ROOT / floor}
    assert {folder.relative_to(ROOT / floor).parts[0] for folder in folders} == {
        room for room in FLOORS[floor] if room
    }
    for folder in folders:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), folder


MAX_FILES = 20
MAX_LINES = 60
MAX_ATTRIBUTES = 12
MEASURED = (*FLOORS, "notebooks", "tests")


def too_large(path: Path) -> Iterator[str]:
    """The functions and constructors of a file that are beyond what a reader can hold."""
    text = path.read_text()
    lines = ["", *text.splitlines()]
    for node in ast.walk(ast.parse(text)):
        where = f"{path.relative_to(ROOT)}: {getattr(node, 'name', '')}"
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            if length > MAX_LINES:
                yield f"{where} has {length} lines"
        elif isinstance(node, ast.ClassDef):
            attributes = attributes_set(node)
            if len(attributes) > MAX_ATTRIBUTES and not says_why(node, lines):
                yield f"{where} sets {len(attributes)} attributes"


def constructor(node: ast.ClassDef) -> ast.FunctionDef | None:
    methods = (child for child in node.body if isinstance(child, ast.FunctionDef))
    return next((method for method in methods if method.name == "__init__"), None)


def attributes_set(node: ast.ClassDef) -> set[str]:
    """The attributes that a class's constructor gives an instance."""
    init = constructor(node)
    return {
        found.attr
        for found in (ast.walk(init) if init else ())
        if isinstance(found, ast.Attribute) and isinstance(found.ctx, ast.Store)
        if isinstance(found.value, ast.Name) and found.value.id == "self"
    }


def says_why(node: ast.ClassDef, lines: list[str]) -> bool:
    """Whether a comment stands right above a class, or opens its constructor."""
    above = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
    init = constructor(node)
    opening = init.body[0].lineno - 1 if init else above
    return any(lines[number].lstrip().startswith("#") for number in (above, opening))


@pytest.mark.parametrize("top", MEASURED)
def test_folders_functions_and_constructors_are_small(top: str) -> None:
    folders = Counter(path.parent for path in sources(top))
    assert [folder for folder, count in folders.items() if count > MAX_FILES] == []
    assert [fault for path in sources(top) for fault in too_large(path)] == []


WHY = "# It is one row of a table."


@pytest.mark.parametrize(
    ("above", "inside", "said"), [("", "", False), (WHY, "", True), ("", WHY, True)]
)
def test_a_constructor_may_say_why_it_sets_many_attributes(
    above: str, inside: str, said: bool
) -> None:
    source = f"{above}\nclass Wide:\n    def __init__(self):\n        {inside}\n        self.x = 1"
    (node,) = ast.parse(source).body
    assert isinstance(node, ast.ClassDef)
    assert attributes_set(node) == {"x"}
    assert says_why(node, ["", *source.splitlines()]) == said


def test_the_command_line_imports_what_is_slow_on_demand() -> None:
    slow = ("torch", "pulp", "pandas", "matplotlib", "profiles.recording", "runtime.replay")
    broken = [
        f"{module_name(path)} imports {name}"
        for path in [*sources("planner/cli"), *sources("runtime/cli")]
        for name in imported(ast.parse(path.read_text()), in_functions=False)
        if is_in(name, *slow)
    ]
    assert broken == []


def test_the_table_tells_right_from_wrong() -> None:
    assert not may_import("profiles.recording.record", "pulp")
    assert not may_import("profiles.recording.record", "planner.plan.plan")
    assert not may_import("profiles.hooks.anchors", "profiles.recording.trace")
    assert not may_import("planner.solving", "torch.nn")
    assert not may_import("planner.solving", "profiles.recording.record")
    assert not may_import("planner.search.local_search", "planner.solving")
    assert not may_import("planner.plan.plan", "planner.cli.solve")
    assert not may_import("planner.cli.solve", "runtime.cli.app")
    assert not may_import("runtime.replay.replay", "planner.solving")
    assert may_import("planner.ilp.solver", "pulp")
    assert may_import("runtime.cli.run", "planner.cli.output")
    assert may_import("runtime.cli.run", "runtime.proof.proof")
    assert may_import("planner.problem.gaps", "profiles.schema.profile")


def asks_cuda(path: Path) -> bool:
    return any(
        isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.cuda"
        for node in ast.walk(ast.parse(path.read_text()))
    )


def test_what_is_of_cuda_alone_stands_in_a_few_files() -> None:
    found = [path for floor in FLOORS for path in sources(floor) if asks_cuda(path)]
    assert {str(path.relative_to(ROOT)) for path in found} == OF_CUDA_ALONE.keys()


def test_there_are_no_other_packages() -> None:
    found = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert found == {*FLOORS, "tests"}


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import runtime", ("torch", "pulp", "highspy", "pandas", "typer")),
        ("import runtime.replay.load", ("pulp", "highspy", "pandas", "typer")),
        ("import planner.plan.plan", ("torch", "pulp", "numpy")),
        ("import profiles.schema.profile", ("torch", "pulp", "numpy")),
        ("import profiles.workloads.catalog", ("torch", "monai", "nilearn")),
        *(
            (f"import {', '.join(map(module_name, sources(folder)))}", ("torch", "pulp"))
            for folder in ("profiles/schema", "profiles/hardware", "planner/plan")
        ),
        ("import planner.studies.limits, planner.studies.shared_link", ("torch", "pandas")),
        ("import runtime.cli.app", ("torch", "pulp", "pandas", "matplotlib")),
        ("import planner.cli.main", ("torch", "pulp", "pandas", "matplotlib")),
    ],
)
def test_an_import_loads_only_what_it_may(statement: str, unwanted: tuple[str, ...]) -> None:
    loaded = python(f"{statement}\nimport sys\nprint(*sys.modules)").stdout.split()
    assert not {name.split(".")[0] for name in loaded} & set(unwanted)


HELP = """
import contextlib, io, sys
from runtime.cli import main

commands = {commands}
with contextlib.redirect_stdout(io.StringIO()):
    assert [main([*command, "--help"]) for command in commands] == [0] * len(commands)
print(*sys.modules)
"""


def test_help_loads_nothing_but_the_command_line_and_the_files_records() -> None:
    """It answers in under half a second, and every second is one of importing."""
    commands = [[], *([name] for name in COMMANDS)]
    assert ["solve"] in commands
    loaded = python(HELP.format(commands=commands)).stdout.split()
    # What an interpreter loads at its start is none of it, like Debian's `sitecustomize`.
    loaded_at_start = python("import sys\nprint(*sys.modules)").stdout.split()
    added = {name.split(".")[0] for name in set(loaded) - set(loaded_at_start)}
    light = {"annotated_doc", "annotated_types", "markdown_it", "mdurl", "pydantic"}
    light |= {"pydantic_core", "pygments", "rich", "shellingham", "typer", "typing_extensions"}
    light |= {"typing_inspection", "click", *FLOORS}
    # Rich looks for it; it is there where nbformat is.
    light |= {"attr"}
    not_of_python = added - sys.stdlib_module_names
    assert {name for name in not_of_python if not name.startswith("_")} <= light
