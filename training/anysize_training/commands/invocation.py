"""The command line itself, as model cards and reports quote it."""

import shlex
import sys

from anysize_training.distill.provenance import without_folders


def command_line() -> str:
    """The command line of this process, without folders of this machine."""
    return shlex.join(["anysize-train", *without_folders(sys.argv[1:])])
