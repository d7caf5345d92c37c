"""A job of this machine as a process, the parent of its ranks: python -m launcher.cluster.local_job FOLDER.

Owns: how it is started, that its ranks end together, as `srun` has it on a cluster, and with it.
Must not know: what a job does, which GPUs it has.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from submitit.local.local import Controller, LocalExecutor, LocalJob

from launcher.machine.processes import PARENT

POLL_SECONDS = 0.1
LOG = "parents.log"  # in the batch's folder: what the parents themselves complain of
GRACE_SECONDS = 180.0  # for ranks to find out that one has failed, and to record why


class Executor(LocalExecutor):  # type: ignore[misc]
    """Submitit's, which writes what is to be done, with a parent of ours and the environment that it is given."""

    def __init__(self, folder: Path, ranks: int, environment: Mapping[str, str]) -> None:
        super().__init__(folder)
        self.update_parameters(tasks_per_node=ranks)
        self._ranks = ranks
        self._environment = {
            **environment,
            "SUBMITIT_EXECUTOR": "local",
            "SUBMITIT_LOCAL_NTASKS": str(ranks),
            "SUBMITIT_LOCAL_NODEID": "0",
            "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
            "SUBMITIT_LOCAL_TIMEOUT_S": "0",  # these two are read, and heeded by a `wait` that is not ours
            "SUBMITIT_LOCAL_SIGNAL_DELAY_S": "0",
            "SUBMITIT_LOCAL_WITH_SHELL": "",
            "SUBMITIT_STDERR_TO_STDOUT": "1",
        }

    def _submit_command(self, command: str) -> LocalJob:
        environment = {**self._environment, "SUBMITIT_LOCAL_COMMAND": command}
        command_line = [sys.executable, "-m", __name__, str(self.folder)]
        with (self.folder / LOG).open("ab") as log:  # not the launcher's: who reads its output would wait for the job
            process = subprocess.Popen(
                command_line, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        return LocalJob(self.folder, str(process.pid), process=process, tasks=list(range(self._ranks)))


class Parent(Controller):  # type: ignore[misc]
    """Submitit's, which starts the ranks and passes SIGTERM on to them; what is left when `wait` returns is killed."""

    def wait(self, freq: int = 24) -> Sequence[int | None]:  # noqa: ARG002 - submitit's
        """Until all ranks have ended; once one has failed, only so long as the others need to say why."""
        failed: float | None = None
        while None in (codes := [task.poll() for task in self.tasks]):
            if failed is None and any(codes):
                failed = time.monotonic()
            if failed is not None and time.monotonic() > failed + GRACE_SECONDS:
                break
            time.sleep(POLL_SECONDS)
        return codes


if __name__ == "__main__":
    os.environ[PARENT] = str(os.getpid())
    Parent(Path(sys.argv[1])).run()
