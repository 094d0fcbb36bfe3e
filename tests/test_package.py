import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import memembed
from memembed.layers import MDEmbedding, QREmbedding


def loaded(statements):
    """Return the top-level modules that a new Python has loaded after these."""
    code = f"import sys; {statements}; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return {name.partition(".")[0] for name in run.stdout.split()}


def test_the_layers_are_at_the_top():
    assert memembed.QREmbedding is QREmbedding
    assert memembed.MDEmbedding is MDEmbedding


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(
        AttributeError, match="'memembed' has no attribute 'QREmbeding'"
    ):
        _ = memembed.QREmbeding


def test_the_layers_load_nothing_but_keras():
    assert loaded("import keras, memembed.layers") - loaded("import keras") == {
        "memembed"
    }


@pytest.mark.parametrize("module", ["sizing", "data"])
def test_sizing_and_data_do_not_load_keras(module):
    assert "keras" not in loaded(f"import memembed.{module}")


def test_the_readme_example_runs():
    readme = Path(__file__).resolve().parents[1] / "README.md"
    (example,) = re.findall(
        r"```python\n(.*?)```", readme.read_text("utf-8"), re.DOTALL
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
