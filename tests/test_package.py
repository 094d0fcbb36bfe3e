"""What a user installs, and what importing it loads."""

import os
import re
import subprocess
import sys
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import keras
import numpy as np
import pytest
from packaging.requirements import Requirement

BACKEND = keras.backend.backend()
ROOT = Path(__file__).resolve().parents[1]


def output(*command, **settings):
    return subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, **settings
    ).stdout


def with_requirements(names):
    """Return these distributions and all that they require, by name."""
    found = {}
    while names:
        name = names.pop()
        if name not in found:
            found[name] = distribution(name)
            needed = map(Requirement, found[name].requires or ())
            names += [
                each.name
                for each in needed
                if not each.marker or each.marker.evaluate({"extra": ""})
            ]
    return found


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Return a Python with only the wheel, Keras, NumPy and one backend installed.

    The requirements of the wheel are linked from the environment of the tests: nothing
    is downloaded. pip checks that the wheel needs nothing else.
    """
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    output(sys.executable, "-m", "venv", "--without-pip", folder / "venv")
    python = folder / "venv" / "bin" / "python"
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    (backend,) = packages_distributions()[BACKEND]  # tensorflow, or tensorflow-cpu
    for each in with_requirements(["keras", "numpy", backend]).values():
        for top in {file.parts[0] for file in each.files} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(each.locate_file(top))
    output(*pip, "wheel", "--no-build-isolation", "--no-deps", "-w", folder, ROOT)
    (wheel,) = folder.glob("*.whl")
    output(*pip, "--python", python, "install", "--no-index", wheel)
    return python


USE = """
import sys

import keras
import numpy as np

before = set(sys.modules)
import memembed.compression
import memembed.sizing

loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
assert loaded - sys.stdlib_module_names == {"memembed"}, loaded

from memembed import HashEmbedding, LowBitEmbedding, MDEmbedding, QREmbedding
from memembed import compress, pack
from memembed.compression import average
from memembed.models import dot_product_model

every_id = np.arange(50)
layers = [
    HashEmbedding(50, 8, 20),
    LowBitEmbedding(50, 8, 3),
    MDEmbedding([10, 40], [8, 2], 8),
    QREmbedding(50, 8),
]
ids = keras.Input((), dtype="int32")
model = keras.Model(ids, keras.layers.Concatenate()([layer(ids) for layer in layers]))
model.compile("adam", "mse")
model.fit(every_id, np.zeros((50, 32)), verbose=0)
model.save("model.keras")
np.save("vectors.npy", model.predict(every_id, verbose=0))

assert memembed.sizing.qr_parameters(50, 8) == layers[3].count_params()
tables = [keras.layers.Embedding(50, 4) for _ in range(4)]
model = average([dot_product_model(*tables[:2]), dot_product_model(*tables[2:])])
examples = {"user": every_id, "movie": every_id}
small = pack(compress(model, examples, max_bytes=300, num_blocks=1))
assert sum(weight.nbytes for weight in small.get_weights()) <= 300
"""
LOAD = """
import keras
import memembed
import numpy as np
model = keras.saving.load_model("model.keras")
vectors = model.predict(np.arange(50), verbose=0)
np.testing.assert_allclose(vectors, np.load("vectors.npy"), atol=1e-6)
"""


def test_the_wheel_works_with_keras_numpy_and_one_backend(python, tmp_path):
    """Importing it loads nothing else, and lets Keras find a saved model's layers."""
    env = {name: os.environ[name] for name in os.environ if name != "PYTHONPATH"}
    for script in (USE, LOAD):
        output(python, "-c", script, cwd=tmp_path, env=env)


def test_the_readme_example_runs():
    (example,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL
    )
    names = {}
    exec(example, names)
    model = names["model"]
    counts = [
        layer.count_params() for layer in model.layers if "embedding" in layer.name
    ]
    assert counts == [64_000, 1_000 * 32 + 99_000 * 4 + 4 * 32]
    ids = {"user": np.array([0, 999_999]), "item": np.array([99_999, 0])}
    model.fit(ids, np.array([1.0, 0.0]), verbose=0)
    assert np.isfinite(model.predict(ids, verbose=0)).all()
