"""Our own command, with packages hidden from it that are installed: ``--without=uvloop -- relay --port 0 ...``."""

from __future__ import annotations

import sys

from benchmarks.relay.serve import hide


def main() -> None:
    """Run the command."""
    split = sys.argv.index("--")
    hide([each.removeprefix("--without=") for each in sys.argv[1:split]])
    sys.argv = [sys.argv[0], *sys.argv[split + 1 :]]

    from resumable_llm.cli import main as command

    command()


if __name__ == "__main__":
    main()
