"""Writes tests/fixtures/arviz.json: traces of several kinds and what ArviZ says of them.

    python3 -m venv ~/arviz-env && ~/arviz-env/bin/pip install arviz==0.23.4
    ~/arviz-env/bin/python tools/arviz/fixture.py

Needed only to make the fixture anew; the tests read the file.
"""

import json
from pathlib import Path

import arviz
import numpy as np


def autoregressive(rng, chains, draws, phi):
    noise = rng.normal(size=(chains, draws))
    x = np.zeros((chains, draws))
    x[:, 0] = noise[:, 0]
    for t in range(1, draws):
        x[:, t] = phi * x[:, t - 1] + np.sqrt(1 - phi * phi) * noise[:, t]
    return x


def traces():
    rng = np.random.default_rng(20210314)
    yield "independent", rng.normal(size=(4, 100))
    yield "slow", autoregressive(rng, 4, 200, 0.9)
    yield "alternating", autoregressive(rng, 4, 100, -0.6)
    stuck = autoregressive(rng, 4, 100, 0.3)
    stuck[2] += 3.0
    yield "one chain elsewhere", stuck
    yield "drifting", autoregressive(rng, 3, 120, 0.5) + np.linspace(0.0, 4.0, 120)
    scales = rng.normal(size=(4, 100))
    scales[1] *= 5.0
    yield "one chain wider", scales
    yield "heavy tails", rng.standard_cauchy(size=(4, 150))
    yield "odd number of draws", autoregressive(rng, 2, 101, 0.7)
    yield "one chain", autoregressive(rng, 1, 150, 0.8)
    yield "few draws", rng.normal(size=(2, 8))
    yield "ties", np.round(rng.normal(size=(4, 60)), 0)


def main():
    cases = []
    for name, trace in traces():
        trace = np.round(trace, 6)
        cases.append({
            "name": name,
            "chains": trace.tolist(),
            "ess_bulk": float(arviz.ess(trace, method="bulk")),
            "ess_tail": float(arviz.ess(trace, method="tail")),
            "ess_mean": float(arviz.ess(trace, method="mean")),
            # Of one chain ArviZ says nothing.
            "rhat": float(arviz.rhat(trace, method="rank")) if len(trace) > 1 else None,
            "mcse_mean": float(arviz.mcse(trace, method="mean")),
        })
    path = Path(__file__).resolve().parents[2] / "tests/fixtures/arviz.json"
    path.write_text(json.dumps({"arviz": arviz.__version__, "cases": cases}) + "\n")


if __name__ == "__main__":
    main()
