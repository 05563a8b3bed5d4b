"""Where the base image of the Dockerfile cannot be pulled: a Debian of the same release, with Debian's own Python."""

import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from podman import ReplayError, limits, podman

NAME = "localhost/anysize-stand-in"
_PACKAGES = ("ca-certificates", "python-is-python3", "python3", "python3-venv")


def make_stand_in(suite: str, version: str, say: Callable[[str], None]) -> str:
    """An image with Debian and the Python that the base image would have, made by debootstrap once.

    Args:
        suite: of Debian, such as bookworm.
        version: of Python that it must have, such as 3.11.
        say: told in one line what is being done.

    Returns:
        Its name.

    Raises:
        ReplayError: debootstrap is not here or fails, or that Debian has another Python.
    """
    image = f"{NAME}:{version}-{suite}"
    if podman("image", "exists", image, check=False).returncode != 0:
        say(f"the base image is not here: debootstrap makes a stand-in of Debian {suite}")
        with tempfile.TemporaryDirectory(prefix="anysize-stand-in-", dir="/var/tmp") as folder:
            root = Path(folder) / "root"
            mirror = _mirror(suite)
            command = ["debootstrap", "--variant=minbase", f"--include={','.join(_PACKAGES)}", suite, str(root)]
            try:
                subprocess.run([*command, *mirror], capture_output=True, text=True, check=True)
            except FileNotFoundError as error:
                raise ReplayError("debootstrap is not on this machine: apt install debootstrap") from error
            except subprocess.CalledProcessError as error:
                raise ReplayError(f"debootstrap failed: {error.stdout.strip().splitlines()[-1:]}") from error
            archive = Path(folder) / "root.tar"
            subprocess.run(
                ["tar", "-C", str(root), "--exclude=./var/cache/apt/archives/*", "-cf", archive, "."], check=True
            )
            podman("import", "--quiet", str(archive), image)
    script = "import sys; print('%d.%d' % sys.version_info[:2])"
    found = podman("run", "--rm", "--network=none", *limits(), image, "python", "-c", script).stdout.strip()
    if found != version:
        raise ReplayError(f"Debian {suite} has Python {found}, and the Dockerfile wants {version}")
    return image


def _mirror(suite: str) -> list[str]:
    """From where apt on this machine takes that release, if it does; debootstrap has its own default."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = [line.split()[0] for line in done.stdout.splitlines() if line.split()[1:] == [suite]]
    return found[:1]
