"""Train one model in several processes, on one machine or on several.

Two processes on this machine, joined over the loopback (`make distributed` tests it):

    export KERAS_BACKEND=jax
    python -m memembed.experiments.distributed

Two machines: each starts its own process, and names the first machine. Both must see
the folder of the checkpoints.

    python -m memembed.experiments.distributed --process 0 --address first:4321
    python -m memembed.experiments.distributed --process 1 --address first:4321

Each process reads only its share of every batch. With `--layout rows` it also holds
only its share of the rows of each table, with `--layout whole` all of them. Training
resumes from the last checkpoint, if there is one. When a process dies, the others end,
and the same command resumes. With `--max-restarts 3`, it does so by itself.
"""

import argparse
import logging
import multiprocessing
import signal
import socket
import sys
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

import keras
import numpy as np

from memembed.layers import QREmbedding
from memembed.models import dot_product_model

USERS, MOVIES, COLUMNS = 4096, 1024, 16
EXAMPLES, BATCH_SIZE = 51_200, 512
SECONDS_TO_JOIN, SECONDS_OF_SILENCE = 60, 10  # then a process counts as dead


@dataclass(frozen=True)
class Run:
    """The settings that all processes must share.

    Attributes:
        processes: how many there are.
        address: host and port of the first process.
        folder: where the checkpoints are kept.
        layout: `"rows"` to split the rows of tables, or `"whole"`.
        epochs: how long to train.
    """

    processes: int
    address: str
    folder: str
    layout: str = "rows"
    epochs: int = 5


class Shares(keras.utils.PyDataset):
    """One process's share of each batch.

    The order of the examples depends only on the epoch. So it is the same in every
    process, and after a restart.

    Args:
        process: number of the process.
        processes: how many share a batch.
        epoch: number of the first epoch.
    """

    def __init__(self, process, processes, epoch=0):
        super().__init__()
        self.epoch, share = epoch, BATCH_SIZE // processes
        self.share = slice(process * share, (process + 1) * share)
        self.shuffle()

    def __len__(self):
        """Return how many batches an epoch has."""
        return EXAMPLES // BATCH_SIZE

    def __getitem__(self, batch):
        """Make the examples of a share. A reader of files would read them here."""
        numbers = self.order[batch * BATCH_SIZE : (batch + 1) * BATCH_SIZE]
        return examples(numbers[self.share])

    def on_epoch_end(self):
        """Draw the order of the next epoch."""
        self.epoch += 1
        self.shuffle()

    def shuffle(self):
        """Draw the order of this epoch."""
        self.order = np.random.default_rng(self.epoch).permutation(EXAMPLES)


def examples(numbers):
    """Return users, movies and ratings, computed from the numbers of examples."""
    numbers = numbers.astype("uint64")
    user = (numbers * 2654435761 >> 7) % USERS
    movie = (numbers * 2246822519 >> 5) % MOVIES
    rating = 3 + np.sin(user.astype("float32")) + np.cos(movie.astype("float32"))
    rows = {"user": user.astype("int32"), "movie": movie.astype("int32")}
    return rows, rating.astype("float32")


def distribution(layout):
    """Return how Keras should spread data and variables over all devices.

    Args:
        layout: `"rows"` or `"whole"`.
    """
    devices = keras.distribution.list_devices()
    mesh = keras.distribution.DeviceMesh((len(devices),), ["batch"], devices)
    if layout == "whole":
        return keras.distribution.DataParallel(mesh, auto_shard_dataset=False)
    layouts = keras.distribution.LayoutMap(mesh)
    layouts[".*embeddings"] = ("batch", None)  # split the rows of each table
    return keras.distribution.ModelParallel(
        layout_map=layouts, batch_dim_name="batch", auto_shard_dataset=False
    )


def build():
    """Return a compiled model. The number of devices must divide its tables' rows."""
    users = QREmbedding(USERS, COLUMNS, name="user_embedding")
    movies = keras.layers.Embedding(MOVIES, COLUMNS, name="movie_embedding")
    model = dot_product_model(users, movies, biases=True)
    model.compile(keras.optimizers.Adam(0.005), "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def restore(model, folder):
    """Load the last checkpoint, if there is one. Return how many epochs are done."""
    if any(each.name.isdigit() for each in Path(folder).glob("*")):
        model.load_weights(folder)
    return int(model.optimizer.iterations) // (EXAMPLES // BATCH_SIZE)


def say(epoch, loss):
    """Print the loss of an epoch, with all digits."""
    print(f"epoch {epoch + 1}: loss {np.float32(loss)!s}", flush=True)


def train(process, run):
    """Train as one of the processes. Each calls this with its own number."""
    import jax

    logging.getLogger("absl").setLevel("ERROR")  # Orbax warns at every checkpoint
    if run.processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(
            run.address,
            run.processes,
            process,
            initialization_timeout=SECONDS_TO_JOIN,
            heartbeat_timeout_seconds=SECONDS_OF_SILENCE,
        )
    keras.distribution.set_distribution(distribution(run.layout))
    keras.utils.set_random_seed(0)
    model = build()
    done = restore(model, run.folder)
    callbacks = [keras.callbacks.OrbaxCheckpoint(run.folder, save_on_background=False)]
    if process == 0:
        print(f"{done} of {run.epochs} epochs are done", flush=True)
        report = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: say(epoch, logs["loss"])
        )
        callbacks.append(report)
    model.fit(
        Shares(process, run.processes, done),
        initial_epoch=done,
        epochs=run.epochs,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )


def launch(run, numbers):
    """Start processes here, and wait for them. If one dies, end the others.

    Args:
        run: `Run`.
        numbers: which of the processes start on this machine.

    Returns:
        A message if a process died, or None.
    """
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=train, args=(i, run), name=str(i)) for i in numbers
    ]
    for worker in workers:
        worker.start()
        print(f"process {worker.name} of {run.processes}: pid {worker.pid}", flush=True)
    running = {worker.sentinel: worker for worker in workers}
    try:
        while running:
            for sentinel in wait(running):
                worker = running.pop(sentinel)
                worker.join()  # a sentinel is ready before the exit code is known
                if worker.exitcode:
                    return _complaint(worker)
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
    return None


def _complaint(worker):
    code = worker.exitcode
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
    return (
        f"Process {worker.name} ended {how}, and the others here were stopped. A "
        "process also ends like this after a process on another machine has died."
    )


def check_name_of_host(address):
    """Exit if other hosts cannot reach this host's name: Gloo connects to it.

    Args:
        address: host and port of the first process.
    """
    name = socket.gethostname()
    try:
        own, first = map(socket.gethostbyname, (name, address.rpartition(":")[0]))
    except OSError:
        return  # JAX itself reports what it cannot reach
    if own.startswith("127.") and not first.startswith("127."):
        sys.exit(
            "The name of each host must resolve to an address that the others reach, "
            f"by /etc/hosts or DNS. Received: {name}, which resolves to {own}"
        )


def free_port():
    """Return a free port of this machine."""
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


def main():
    """Run `python -m memembed.experiments.distributed`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--processes", type=int, default=2, help="how many processes, on all machines")
    add("--process", type=int, help="number of the one to start here (default: all)")
    add("--address", help="HOST:PORT of the first process")
    add("--folder", default="checkpoints", help="folder of the checkpoints")
    add("--layout", choices=["rows", "whole"], default="rows", help="of tables")
    add("--epochs", type=int, default=5)
    add("--max-restarts", type=int, default=0, help="if a process dies")
    given = parser.parse_args()
    if keras.backend.backend() != "jax":
        parser.error("set KERAS_BACKEND=jax: this script works on JAX only")
    if given.processes < 1 or BATCH_SIZE % given.processes:
        parser.error(f"--processes must divide the batch of {BATCH_SIZE} examples")
    if given.process is None:
        numbers = range(given.processes)
    elif 0 <= given.process < given.processes and given.address:
        numbers = [given.process]
        check_name_of_host(given.address)
    else:
        parser.error(
            f"--process must be from 0 to {given.processes - 1}, with an --address"
        )
    folder = str(Path(given.folder).resolve())
    go_on = "Run the same command on every machine to resume from the last checkpoint."
    for restarts_left in range(given.max_restarts, -1, -1):
        address = given.address or f"localhost:{free_port()}"
        run = Run(given.processes, address, folder, given.layout, given.epochs)
        try:
            complaint = launch(run, numbers)
        except KeyboardInterrupt:
            sys.exit(f"Stopped. {go_on}")
        if not complaint:
            return
        print(complaint, file=sys.stderr, flush=True)
        if restarts_left:
            print(f"Starting again; {restarts_left - 1} restarts are left.", flush=True)
    sys.exit(go_on)


if __name__ == "__main__":
    main()
