"""Who may import whom: the table of three packages that meet only in two files.

Imports inside functions count too, except where a rule says otherwise: `TYPE_CHECKING` blocks
never run and do not count.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("planner", "profiles", "runtime")
TORCH_FREE_PROFILES = frozenset(
    {
        "profiles.copy_engine",
        "profiles.errors",
        "profiles.files",
        "profiles.hardware",
        "profiles.link_facts",
        "profiles.model_description",
        "profiles.profile",
        "profiles.profile_faults",
        "profiles.progress",
        "profiles.quantities",
        "profiles.record_faults",
        "profiles.sharing",
        "profiles.slot_memory",
        "profiles.version",
    }
)
SOLVER_MODULES = ("planner.model", "planner.solve", "planner.solver")
# The command line is where all parts meet; another test says when it may load them.
COMMAND_LINE = "planner.cli"


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


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
            # `from planner import solve` may name a module or a thing in it.
            yield child.module
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif in_functions or not isinstance(child, ast.FunctionDef):
            yield from imported(child, in_functions=in_functions)


def is_in(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def may_import(module: str, name: str) -> bool:
    """The table."""
    if is_in(module, "profiles"):
        return not is_in(name, "pulp", "highspy", "planner", "runtime")
    if is_in(module, "runtime"):
        return not is_in(name, "pulp", "highspy", COMMAND_LINE, *SOLVER_MODULES)
    if is_in(module, COMMAND_LINE):
        return True
    if is_in(name, "profiles"):
        return name == "profiles" or is_in(name, *TORCH_FREE_PROFILES)
    return not is_in(name, "torch", "runtime", COMMAND_LINE)


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_follow_the_table(package: str) -> None:
    assert sources(package)
    broken = [
        f"{module_name(path)} imports {name}"
        for path in sources(package)
        for name in imported(ast.parse(path.read_text()))
        if not may_import(module_name(path), name)
    ]
    assert broken == []


def test_the_command_line_imports_what_is_slow_on_demand() -> None:
    slow = ("torch", "pulp", "pandas", "matplotlib", "runtime", "profiles.record")
    broken = [
        f"{module_name(path)} imports {name}"
        for path in sources("planner/cli")
        for name in imported(ast.parse(path.read_text()), in_functions=False)
        if is_in(name, *slow)
    ]
    assert broken == []


def test_the_table_tells_right_from_wrong() -> None:
    assert not may_import("profiles.record", "pulp")
    assert not may_import("profiles.record", "planner.plan")
    assert not may_import("planner.solve", "torch.nn")
    assert not may_import("planner.solve", "profiles.record")
    assert not may_import("planner.memory", "planner.cli")
    assert not may_import("runtime.replay", "planner.solve")
    assert may_import("runtime.replay", "planner.solver_name")
    assert may_import("planner.cli.run", "runtime.proof")
    assert may_import("planner.gaps", "profiles.profile.Profile")


def test_there_are_no_other_packages() -> None:
    found = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert found == {*PACKAGES, "tests"}


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import runtime", ("pulp", "highspy", "pandas", "typer")),
        ("import planner.plan", ("torch", "pulp", "numpy")),
        ("import profiles.profile", ("torch", "pulp", "numpy")),
        ("import profiles.workloads.catalog", ("torch", "monai", "nilearn")),
        *((f"import {name}", ("torch", "pulp")) for name in sorted(TORCH_FREE_PROFILES)),
        ("import planner.cli", ("torch", "pulp", "pandas", "matplotlib", "runtime")),
    ],
)
def test_an_import_loads_only_what_it_may(statement: str, unwanted: tuple[str, ...]) -> None:
    loaded = run_python(f"{statement}\nimport sys\nprint(*sys.modules)").split()
    assert not {name.split(".")[0] for name in loaded} & set(unwanted)


HELP = """
import contextlib, io, sys
from planner.cli import main

commands = {commands}
with contextlib.redirect_stdout(io.StringIO()):
    assert [main([*command, "--help"]) for command in commands] == [0] * len(commands)
print(*sys.modules)
"""


def test_help_loads_nothing_but_the_command_line_and_the_files_records() -> None:
    """It answers in under half a second, and every second is one of importing."""
    from planner.cli.app import app

    names = [command.callback.__name__ for command in app.registered_commands if command.callback]
    commands = [[], *([name] for name in names)]
    assert ["solve"] in commands
    loaded = run_python(HELP.format(commands=commands)).split()
    not_of_python = {name.split(".")[0] for name in loaded} - sys.stdlib_module_names - {"__main__"}
    light = {"annotated_doc", "annotated_types", "markdown_it", "mdurl", "pydantic"}
    light |= {"pydantic_core", "pygments", "rich", "shellingham", "typer", "typing_extensions"}
    light |= {"typing_inspection", "click", "planner", "profiles"}
    # Rich looks for it; it is there where nbformat is.
    light |= {"attr"}
    # An editable installation has a finder of its own.
    assert {name for name in not_of_python if not name.startswith("_")} <= light
