"""Where a command writes if it is not told, and what it does not write over."""

from pathlib import Path

from profiles.library.index import PREFIX
from profiles.schema.course_set import course_in
from profiles.schema.errors import FileError
from profiles.schema.files import FileRecord, check_writable, format_of

OURS = "swapplan-"
"""How the magic word of each of our files begins."""
KINDS = ("profile", "profiles", "plan", "plans")


def beside(file: Path, ending: str) -> Path:
    """Returns the path for what is made from a file: `x.profile.json.gz` becomes `x` and the
    ending, in its folder; what is made from the library goes into the folder at hand."""
    is_library = str(file).startswith(PREFIX)
    path = Path(str(file).removeprefix(PREFIX)) if is_library else file
    path, number = course_in(path)
    name = path.name.removesuffix(".gz").removesuffix(".json")
    for kind in KINDS:
        name = name.removesuffix(f".{kind}")
    return path.with_name(name + ("" if number is None else f"-{number}") + ending)


def of_workload(reference: str, ending: str) -> Path:
    """Returns the path for what is made from a workload: that of its name, or of its file's, in the
    folder at hand."""
    file, _, _ = reference.rpartition(":")
    return Path((Path(file).stem if file else reference) + ending)


def check_output(
    path: Path, kind: type[FileRecord] | None = None, *, keep: Path | None = None
) -> Path:
    """Returns a path that can be written, or fails now, not after minutes of work.

    Args:
        path: Where to write.
        kind: What is written; None for what is none of our files.
        keep: What the command reads, which must not be lost.

    Raises:
        FileError: It cannot be written, or what is there is a file of another kind.
    """
    check_writable(path, keep=keep)
    if path.is_file() and path.stat().st_size > 0:
        wanted = "" if kind is None else kind.FORMAT
        found = _format_of(path)
        if found != wanted:
            what = f"a {found.removeprefix(OURS)}" if found else "no file of swapplan's"
            article = "another file" if kind is None else f"a {wanted.removeprefix(OURS)}"
            raise FileError(
                f"{path}: {what} is there, and {article} would replace it. Choose another path "
                "with -o, or remove it first."
            )
    return path


def _format_of(path: Path) -> str:
    """The magic word of one of our files; nothing of any other."""
    try:
        found = format_of(path)
    except FileError:
        return ""
    return found if found.startswith(OURS) else ""
