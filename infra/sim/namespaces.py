"""May this process make the private namespaces that simulated instances boot in?"""

from __future__ import annotations

import functools
import shutil
import subprocess

from infra.errors import InfraError

# Everything in them ends with the thread that starts this, however it ends.
UNSHARE = ("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


class NoNamespacesError(InfraError):
    """The simulator cannot boot instances here."""


@functools.cache
def why_not() -> str | None:
    """The reason why instances cannot be booted here; None if they can."""
    for program in ("setpriv", "unshare"):
        if shutil.which(program) is None:
            return f"there is no `{program}` program (package util-linux)"
    probe = subprocess.run([*UNSHARE, "mount", "-t", "tmpfs", "none", "/proc/sys"], capture_output=True, text=True)
    if probe.returncode == 0:
        return None
    said = (probe.stderr.strip().splitlines() or ["no reason given"])[-1]
    return f"private namespaces are not permitted ({said}); root or CAP_SYS_ADMIN is needed"


def require() -> None:
    """Raises NoNamespacesError with the reason and what to do."""
    if (reason := why_not()) is not None:
        raise NoNamespacesError(
            f"the simulator cannot boot instances on this machine: {reason}. Run it as root, or in a container started "
            "with --privileged."
        )
