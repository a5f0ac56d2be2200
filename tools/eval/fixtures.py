"""Writes tests/fixtures/eval/*.json: what NumPy, SciPy and scikit-learn say of small cases, and reads the .npz file of the tests.

    python3 -m venv ~/eval-env && ~/eval-env/bin/pip install numpy scipy scikit-learn
    ~/eval-env/bin/python tools/eval/fixtures.py

Needed only to make the fixtures anew; the tests read the files. Every measure is written here a second time, from its paper and with
the libraries' own parts, and shares no code with the engine.
"""

import json
import zipfile
from pathlib import Path

import numpy as np
import scipy
import scipy.linalg
import scipy.stats
import sklearn
from sklearn.metrics import pairwise_distances, roc_auc_score
from sklearn.metrics.pairwise import polynomial_kernel
from sklearn.neighbors import NearestNeighbors

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


def discrepancy(x, y):
    """Unbiased squared maximum mean discrepancy; the kernel is scikit-learn's, with its defaults for degree 3."""
    m, n = len(x), len(y)
    xx, yy, xy = polynomial_kernel(x, x), polynomial_kernel(y, y), polynomial_kernel(x, y)
    off = lambda k: k.sum() - np.trace(k)
    return off(xx) / (m * (m - 1)) + off(yy) / (n * (n - 1)) - 2 * xy.mean()


def kernel_distance(x, y):
    blocks = min(10, min(len(x), len(y)) // 2)
    values = [discrepancy(x[b::blocks], y[b::blocks]) for b in range(blocks)]
    low, high = scipy.stats.t.interval(0.95, blocks - 1, loc=np.mean(values), scale=scipy.stats.sem(values))
    return float(np.mean(values)), float((high - low) / 2)


def frechet_distance(x, y):
    mean = x.mean(0) - y.mean(0)
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    return float(mean @ mean + np.trace(a + b - 2 * np.real(scipy.linalg.sqrtm(a @ b))))


def spheres(x, k):
    """The distance of each row to its k-th neighbour; asked without queries, scikit-learn leaves the row itself out."""
    return NearestNeighbors(n_neighbors=k, algorithm="brute").fit(x).kneighbors()[0][:, -1]


def fidelity(real, samples):
    # By differences: equal rows are at distance zero exactly, which products give only nearly.
    distances = np.array([[np.sqrt(((r - s) ** 2).sum()) for s in samples] for r in real])
    assert np.allclose(distances, pairwise_distances(real, samples))
    of_real, of_samples = spheres(real, 3), spheres(samples, 3)
    wide = spheres(real, 5)
    return {
        "precision": float((distances <= of_real[:, None]).any(0).mean()),
        "recall": float((distances <= of_samples[None, :]).any(1).mean()),
        "density": float((distances <= wide[:, None]).sum(0).mean() / 5),
        "coverage": float((distances.min(1) <= wide).mean()),
    }


def features():
    rng = np.random.default_rng(20180214)
    n = lambda rows, width: rng.normal(size=(rows, width))
    yield "one law", n(60, 4), n(45, 4)
    yield "a shift", n(60, 4), n(60, 4) + 0.8
    yield "another scale", n(50, 3), 0.3 * n(80, 3)
    yield "a mode less", np.concatenate([n(30, 3), n(30, 3) + 6]), n(40, 3)
    yield "one feature", n(30, 1), n(25, 1) ** 2
    yield "correlated", n(70, 6) @ n(6, 6), n(65, 6) @ n(6, 6) + 0.1
    yield "copies among them", np.repeat(n(12, 4), 3, axis=0), n(30, 4)
    yield "swish of a network", np.maximum(n(64, 8), -0.2), np.maximum(1.2 * n(64, 8), -0.2)


def delong(above, below):
    """By counting every pair, as the definition has it."""
    psi = (above[:, None] > below[None, :]) + 0.5 * (above[:, None] == below[None, :])
    v10, v01 = psi.mean(1), psi.mean(0)
    variance = v10.var(ddof=1) / len(above) + v01.var(ddof=1) / len(below)
    return float(psi.mean()), float(scipy.stats.norm.ppf(0.975) * np.sqrt(variance))


def scores():
    rng = np.random.default_rng(19880901)
    yield "apart by one deviation", rng.normal(size=60) + 1, rng.normal(size=40)
    yield "one law", rng.normal(size=50), rng.normal(size=70)
    yield "many ties", rng.integers(0, 4, 80).astype(float), rng.integers(1, 5, 30).astype(float)
    yield "the wrong way round", rng.normal(size=30) - 2, rng.normal(size=30)
    yield "heavy tails", rng.standard_cauchy(size=40) + 0.5, rng.standard_cauchy(size=90)
    yield "few", np.array([1.0, 2.0]), np.array([1.5, 1.5, 0.0])


def write(name, content):
    about = {"numpy": np.__version__, "scipy": scipy.__version__, "scikit-learn": sklearn.__version__}
    (FOLDER / name).write_text(json.dumps({"made_with": about, **content}) + "\n")


def main():
    check_npz()
    cases = []
    for name, x, y in features():
        # As the engine has them: single precision.
        x, y = (np.round(v, 3).astype(np.float32).astype(np.float64) for v in (x, y))
        kernel, half_width = kernel_distance(x, y)
        cases.append({
            "name": name,
            "width": x.shape[1],
            "real": np.round(x, 3).ravel().tolist(),
            "samples": np.round(y, 3).ravel().tolist(),
            "kernel": kernel,
            "kernel_half_width": half_width,
            "frechet": frechet_distance(x, y) if x.shape[1] > 1 else None,
            **fidelity(x, y),
        })
    write("features.json", {"cases": cases})

    cases = []
    for name, above, below in scores():
        above, below = np.round(above, 4), np.round(below, 4)
        value, half_width = delong(above, below)
        labels = np.r_[np.ones(len(above)), np.zeros(len(below))]
        assert abs(value - roc_auc_score(labels, np.r_[above, below])) < 1e-12
        cases.append({
            "name": name,
            "above": above.tolist(),
            "below": below.tolist(),
            "auroc": value,
            "half_width": half_width,
        })
    write("scores.json", {"cases": cases})

    labels = np.array([0, 2, 2, 3, 1, 2, 0, 0, 3, 2])
    law = np.array([0.1, 0.2, 0.4, 0.25, 0.05])
    shares = np.bincount(labels, minlength=5) / len(labels)
    write("tables.json", {
        "t_quantiles": [[d, float(scipy.stats.t.ppf(0.975, d))] for d in [*range(1, 31), 50, 100, 1000]],
        "mode_labels": labels.tolist(),
        "mode_law": law.tolist(),
        "mode_kl": float(scipy.stats.entropy(shares, law)),
    })


if __name__ == "__main__":
    main()
