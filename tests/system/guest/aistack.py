#!/usr/bin/python3 -sS
"""`aistack` of the guest: the checkout's package on the closure, as nixpkgs' wrapper would do."""

import sys

sys.path[:0] = ["/usr/lib/aistack/src", "/usr/lib/aistack/site-packages"]


def run() -> None:
    """The command line."""
    from aistack.cli import main

    sys.argv[0] = "aistack"
    main()


if __name__ == "__main__":
    run()
