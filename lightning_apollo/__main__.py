"""Entry point of the command line. Signal handlers are installed before slow imports."""

import os
import signal
import sys

from lightning_apollo.training.processes.signals import INTERRUPTED, LISTENER


def main() -> None:
    """Run the command line; Ctrl-C while its modules are imported ends it without a word."""
    if sys.argv[1:2] == ["fit"]:
        LISTENER.start()
    else:
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(INTERRUPTED))
    from lightning_apollo.cli.main import app

    if sys.argv[1:2] != ["fit"]:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    app(prog_name="lightning-apollo")


if __name__ == "__main__":
    main()
