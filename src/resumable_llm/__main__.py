"""`python -m resumable_llm`: the same as the command `resumable-llm`."""

from __future__ import annotations

from resumable_llm.cli import main

if __name__ == "__main__":
    main()
