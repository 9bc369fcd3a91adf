"""The version of swapplan, as files and the command line state it."""

VERSION = "0.1.0"
CREATED_BY = f"swapplan {VERSION}"
