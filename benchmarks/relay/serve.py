"""Serves an application by uvicorn on a free port, which it prints; ``--without`` hides packages that are installed."""

from __future__ import annotations

import argparse
import socket
import sys


def main() -> None:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--without", action="append", default=[], metavar="PACKAGE")
    parser.add_argument("application", help="as uvicorn takes it")
    options = parser.parse_args()
    hide(options.without)

    import uvicorn

    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(options.application, access_log=False, log_level="error", server_header=False)
    uvicorn.Server(config).run([listener])


def hide(packages: list[str]) -> None:
    """Have imports of these fail."""
    for package in packages:
        sys.modules[package] = None  # type: ignore[assignment]


if __name__ == "__main__":
    main()
