"""Reads tests/fixtures/traces.npz, the bytes that the engine's writer of traces must give, and compares every number.

    python3 tools/arviz/traces.py

Needed only when the writer changes; the tests compare with the file. Needs NumPy.
"""

import zipfile
from pathlib import Path

import numpy as np

PATH = Path(__file__).resolve().parents[2] / "tests/fixtures/traces.npz"
WANT = {
    "log_density": np.arange(6).reshape(2, 3) * 0.5 - 1.0,
    "x[0]": np.arange(5) * 0.5 - 1.0,
}

with zipfile.ZipFile(PATH) as archive:
    assert archive.testzip() is None
with np.load(PATH) as file:
    assert file.files == list(WANT), file.files
    for name, want in WANT.items():
        assert file[name].dtype == np.float32 and np.array_equal(file[name], want), name
print("NumPy reads every number")
