"""README.md and the guides, as text."""

from tests.support.commands import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDES = tuple(sorted((ROOT / "notebooks" / "guides").glob("*.md")))
TEXTS = {
    ROOT / "README.md": README,
    **{guide: guide.read_text(encoding="utf-8") for guide in GUIDES},
}
"""By path."""
