"""Several processes have the losses of one process, even after one of them dies.

`make distributed` runs these tests. They need JAX and Orbax.
"""

import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time

import keras
import pytest

pytest.importorskip("orbax.checkpoint")
pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="Keras's distribution API needs JAX"
)

from memembed.experiments import distributed  # noqa: E402

EPOCHS = 7
KILLS = 5  # in each layout
BOUND = 60  # seconds: JAX waits for 10, and machines may be slow


class Training:
    """A training in the background, whose output is read line by line."""

    def __init__(self, folder, *options, epochs=EPOCHS):
        command = [sys.executable, "-m", "memembed.experiments.distributed"]
        command += ["--folder", str(folder), "--epochs", str(epochs), *options]
        # Not a pipe, which would fill up because nothing reads it.
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            command, text=True, stdout=subprocess.PIPE, stderr=self.errors
        )
        self.pids, self.losses = {}, {}

    def read(self, until=r"$^"):
        """Read up to a matching line, or to the end. Return the match or None."""
        for line in self.process.stdout:
            if found := re.match(r"process (\d+) of \d+: pid (\d+)", line):
                self.pids[int(found[1])] = int(found[2])
            if found := re.match(r"epoch (\d+): loss (\S+)", line):
                self.losses[int(found[1])] = float(found[2])
            if found := re.match(until, line):
                return found
        return None

    def end(self):
        """Return the exit status, and what went wrong, after the last line is read."""
        self.read()
        code = self.process.wait(BOUND)
        self.errors.seek(0)
        return code, self.errors.read()

    def complaint(self):
        """Return what went wrong. It must end now, within a bounded time."""
        start = time.monotonic()
        code, errors = self.end()
        assert time.monotonic() - start < BOUND
        assert code == 1
        return errors


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The losses of one process."""
    training = Training(tmp_path_factory.mktemp("alone"), "--processes", "1")
    assert training.end()[0] == 0
    assert len(training.losses) == EPOCHS
    return training.losses


@pytest.mark.parametrize("layout", ["rows", "whole"])
def test_two_processes_have_the_losses_of_one_even_if_they_die(layout, alone, tmp_path):
    """Each restart resumes, and is killed again in the middle of an epoch."""
    draw, options = random.Random(0), ("--layout", layout)
    training = Training(tmp_path, *options, "--max-restarts", str(KILLS))
    for kill in range(KILLS):
        done = int(training.read(r"(\d+) of \d+ epochs are done")[1])
        assert done == max(training.losses, default=0)
        training.read(r"epoch \d+")
        time.sleep(draw.random() / 2)
        victim, other = training.pids[kill % 2], training.pids[1 - kill % 2]
        os.kill(victim, signal.SIGKILL)
        assert training.read(rf"Starting again; {KILLS - kill - 1} restarts are left")
        assert not _alive(other)
    code, complaints = training.end()
    assert code == 0
    assert len(re.findall("^Process . ended by SIGKILL", complaints, re.M)) == KILLS
    assert training.losses == pytest.approx(alone, rel=1e-5)


def test_a_process_on_another_machine_ends_too(tmp_path):
    address = f"localhost:{distributed.free_port()}"
    first, second = (
        Training(tmp_path, "--address", address, "--process", str(i), epochs=1000)
        for i in range(2)
    )
    second.read(r"process")
    first.read(r"epoch 1")
    os.kill(second.pids[1], signal.SIGKILL)
    complaint = first.complaint()
    assert re.search("^Process 0 ended .* on another machine has died", complaint, re.M)
    assert complaint.strip().endswith("to resume from the last checkpoint.")
    assert second.end()[0] == 1


def test_a_process_that_is_frozen_is_ended_too(tmp_path):
    training = Training(tmp_path, epochs=1000)
    training.read(r"epoch 1")
    os.kill(training.pids[1], signal.SIGSTOP)
    complaint = training.complaint()
    assert re.search("^Process 0 ended .* others here were stopped", complaint, re.M)
    assert not any(map(_alive, training.pids.values()))


def test_the_exit_code_of_a_process_is_waited_for(monkeypatch):
    """The sentinel of a process can be ready while its exit code is not known."""

    class Worker:
        name, pid, sentinel, exitcode = "0", 1, 7, None

        def join(self):
            self.exitcode = -6

        def start(self):
            pass

        kill = start

    class Context:
        Process = staticmethod(lambda **_: Worker())

    monkeypatch.setattr("multiprocessing.get_context", lambda method: Context)
    ready = iter([[Worker.sentinel]])
    monkeypatch.setattr(distributed, "wait", lambda running: next(ready))
    complaint = distributed.launch(distributed.Run(1, "", ""), [0])
    assert complaint.startswith("Process 0 ended by SIGABRT")


def test_a_name_that_other_hosts_cannot_reach_is_refused(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "me")
    addresses = {"me": "127.0.1.1", "first": "10.0.0.1", "localhost": "127.0.0.1"}
    monkeypatch.setattr("socket.gethostbyname", addresses.__getitem__)
    distributed.check_name_of_host("localhost:4321")
    with pytest.raises(SystemExit, match="me, which resolves to 127"):
        distributed.check_name_of_host("first:4321")


def test_options_that_do_not_fit_are_refused(monkeypatch, capsys):
    for options, message in (
        (["--processes", "3"], "must divide the batch of 512"),
        (["--process", "2", "--address", "a:1"], "must be from 0 to 1"),
        (["--process", "0"], "with an --address"),
    ):
        monkeypatch.setattr(sys, "argv", ["distributed", *options])
        with pytest.raises(SystemExit):
            distributed.main()
        assert message in capsys.readouterr().err


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
