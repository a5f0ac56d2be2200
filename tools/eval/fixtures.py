"""Writes tests/fixtures/eval/*.json: what NumPy, SciPy and scikit-learn say of small cases, and reads the .npz file of the tests.

    python3 -m venv ~/eval-env && ~/eval-env/bin/pip install numpy scipy scikit-learn
    ~/eval-env/bin/python tools/eval/fixtures.py

Needed only to make the fixtures anew; the tests read the files. Every measure is written here a second time, from its paper and with
the libraries' own parts, and shares no code with the engine.
"""

import zipfile
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parents[2] / "tests/fixtures/eval"


def check_npz():
    """The bytes that the engine's writer must give: Python's zip module and NumPy find every pixel in them."""
    path = FOLDER / "images.npz"
    want = (np.arange(5 * 2 * 3 * 3) * 37 % 256).astype(np.uint8).reshape(5, 2, 3, 3)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["arr_0.npy"], archive.namelist()
    with np.load(path) as file:
        got = file["arr_0"]
    assert got.dtype == np.uint8 and np.array_equal(got, want)


def main():
    check_npz()


if __name__ == "__main__":
    main()
