"""Hosts on this machine, reached by ssh: namespaces with their own network, processes and file trees (lab.sh).

Nothing of it is in the machine's own namespaces, and all of it ends with the process that made it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import ClassVar

from tests.store.s3 import ACCOUNT

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ENVIRONMENT = Path(sys.prefix).resolve()
NEEDED = {"unshare": "util-linux", "nsenter": "util-linux", "ip": "iproute2", "ssh": "openssh-client", "rsync": "rsync"}
OUTSIDE, S3_PORT = "10.77.0.1", 9000
NAMESPACES = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc"]


def lacking() -> str:
    """Why this machine cannot run hosts; empty if it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "hosts in namespaces need Linux and root"
    if absent := sorted({package for program, package in NEEDED.items() if not shutil.which(program)}):
        return f"hosts in namespaces need the system's packages {', '.join(absent)}"
    if not Path("/usr/sbin/sshd").exists():
        return "hosts in namespaces need the system's package openssh-server"
    tried = subprocess.run([*NAMESPACES, "ip", "link", "add", "x", "type", "bridge"], capture_output=True, text=True)
    return f"this machine allows no namespaces: {tried.stderr.strip()}" if tried.returncode else ""


class Lab:
    """`count` hosts, from construction until `close`, and a directory outside them with a checkout of the repository.

    What the hosts share, as by a network file system, is `shared` here and /srv/shared there. `object_storage` is how
    their environment leads to a server of S3 outside of them, for a test that starts one.
    """

    object_storage: ClassVar = {**ACCOUNT, "AWS_ENDPOINT_URL": f"http://{OUTSIDE}:{S3_PORT}"}

    def __init__(self, scratch: Path, count: int) -> None:
        self.scratch, self.count = scratch, count
        self.shared, self.home, self.key = scratch / "shared", scratch / "home", scratch / "key"
        for folder in (self.shared, self.home):
            folder.mkdir()
        for name in ("key", "host_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", scratch / name], check=True)
        (scratch / "profile").write_text(". ~/.bashrc\n")  # like Debian's and Ubuntu's
        bucket = " ".join(f"{name}={value}" for name, value in self.object_storage.items())
        (scratch / "bashrc").write_text(f"export PIP_NO_INDEX=1 PIP_FIND_LINKS={self._wheels()} {bucket}\n")
        command = [*NAMESPACES, "--propagation", "private", "--mount-proc"]
        arguments = [str(HERE / "lab.sh"), str(scratch), str(count), str(ENVIRONMENT)]
        with open(scratch / "lab.log", "w") as log:
            self._lab = subprocess.Popen(
                [*command, "bash", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self._lab.stdout
        if self._lab.stdout.readline() != "ready\n":
            self.close()
            raise RuntimeError(f"no hosts: {(scratch / 'lab.log').read_text()}")
        children = Path(f"/proc/{self._lab.pid}/task/{self._lab.pid}/children").read_text().split()
        self.process = int(children[0])
        """The first process of the lab's namespaces, in the machine's own numbering."""

    def _wheels(self) -> Path:
        """The build dependencies, which set-up does not find in the shared environment."""
        wheels = self.scratch / "wheels"
        requirements = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
        command = [sys.executable, "-m", "pip", "download", "-q", "-d", str(wheels), *requirements, "editables"]
        subprocess.run(command, check=True, stderr=subprocess.PIPE)
        return wheels

    def checkout(self) -> Path:
        """A repository with these files as they are now, without what git ignores."""
        folder = self.scratch / "checkout"
        folder.mkdir()
        listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate"]
        names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout
        there = b"\n".join(name for name in names.splitlines() if (ROOT / name.decode()).exists())
        subprocess.run(["rsync", "-a", "--files-from=-", f"{ROOT}/", f"{folder}/"], input=there, check=True)
        git = ["git", "-c", "user.name=lab", "-c", "user.email=lab@localhost"]
        for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "as it is now"]):
            subprocess.run([*git, *command], cwd=folder, check=True)
        return folder

    def outside(self, command: list[str], folder: Path, **more: str) -> list[str]:
        """The command line that runs `command` outside the hosts, in `folder`, as a user with the project installed."""
        settings = {
            "HOME": str(self.home),
            "PATH": f"{ENVIRONMENT}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": f"{folder / 'platform'}:{folder}",
            "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            **more,
        }
        enter = ["nsenter", f"--wd={folder}", "-t", str(self.process), "-m", "-n", "-p", "-u", "-i"]
        return [*enter, "env", "-i", *(f"{name}={value}" for name, value in settings.items()), *command]

    def run(self, command: list[str], folder: Path, *, seconds: float, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a command outside the hosts; stdout and stderr are merged."""
        line = self.outside(command, folder, **more)
        return subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds)

    def on(self, host: int, command: str, *, seconds: float = 120.0) -> str:
        """The output of `command` on a host, in a login shell."""
        ssh = ["ssh", "-i", str(self.key), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
        ssh += ["-o", "LogLevel=ERROR", f"ubuntu@10.77.0.{10 + host}", f"bash -lc {shlex.quote(command)}"]
        return self.run(ssh, self.scratch, seconds=seconds).stdout

    def close(self) -> None:
        """End everything on every host."""
        assert self._lab.stdin
        assert self._lab.stdout
        self._lab.stdin.close()
        self._lab.wait(30.0)
        self._lab.stdout.close()
