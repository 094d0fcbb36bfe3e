"""The layers under TensorFlow's `MirroredStrategy`, on one CPU used as two."""

import os
import subprocess
import sys

import keras
import pytest

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="MirroredStrategy is TensorFlow's"
)

# In its own process: TensorFlow configures devices only once, when it starts.
SCRIPT = """
import tensorflow as tf

(cpu,) = tf.config.list_physical_devices("CPU")
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)

import keras
import numpy as np

from memembed import HashEmbedding, MDEmbedding, QREmbedding

random = np.random.default_rng(0)
x, y = random.integers(0, 512, 640), random.random(640)


def trained(make):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input(()), make(), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    model.fit(x, y, batch_size=64, epochs=2, shuffle=False, verbose=0)
    return model.get_weights()


strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
for make in (
    lambda: QREmbedding(512, 8),
    lambda: MDEmbedding([64, 448], [8, 2], 8),
    lambda: HashEmbedding(512, 8, 64),
):
    alone = trained(make)
    with strategy.scope():
        both = trained(make)
    print(max(np.abs(a - b).max() for a, b in zip(alone, both, strict=True)))
print(strategy.num_replicas_in_sync)
"""


def test_two_replicas_train_the_same_weights():
    said = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
        text=True,
        stdout=subprocess.PIPE,
    )
    *differences, replicas = map(float, said.stdout.split())
    assert replicas == 2
    assert len(differences) == 3
    assert max(differences) < 1e-6
