"""The command line: `resumable-llm demo`, `resumable-llm stream` and `resumable-llm relay`.

Needs the extra `cli` (typer, rich), and says so where it is missing; nothing else in the package depends on it.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; ends with a documented exit code."""
    try:
        from resumable_llm.cli.app import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        print("the command line needs two more packages: pip install 'resumable-llm[cli]'", file=sys.stderr)
        sys.exit(2)
    app()
