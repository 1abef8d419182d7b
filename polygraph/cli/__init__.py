"""The command line: `polygraph COMMAND`."""

from polygraph.cli.main import describe, main

__all__ = ["describe", "main"]
