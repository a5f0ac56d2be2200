"""The same chains by vaebm and by BlackJAX: effective draws per second, measured in turn.

    python3 -m venv ~/chains-env && ~/chains-env/bin/pip install -r tools/chains/requirements.txt
    ~/chains-env/bin/python tools/chains/compare.py --vaebm target/release/vaebm

Both move the same number of chains in f32 on the same density, from standard normal numbers, with the step size that vaebm adapts to. BlackJAX's
chains are one compiled scan over draws of a vmap over chains; compilation and warm-up are outside of its clock as they are of vaebm's.
Both stores of traces go through the same arviz.ess, and the worst trace counts. docs/chains.md says what makes such a comparison fair.
"""

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

import arviz
import blackjax
import jax
import jax.numpy as jnp
import numpy as np


def gaussian(dim, condition):
    """Independent, variances a geometric sequence from 1 / condition to 1."""
    variance = condition ** (jnp.arange(dim) / max(dim - 1, 1) - 1.0)
    return lambda x: -0.5 * jnp.sum(x * x / variance)


def mixture(separation, weight):
    """Two components `separation` apart on the first axis."""
    def log_density(x):
        shift = jnp.zeros_like(x).at[0].set(separation / 2)
        near = jnp.log(weight) - 0.5 * jnp.sum((x - shift) ** 2)
        far = jnp.log1p(-weight) - 0.5 * jnp.sum((x + shift) ** 2)
        return jnp.logaddexp(near, far)
    return log_density


DENSITIES = {
    "gaussian": (gaussian, ["dim", "condition_number"]),
    "mixture": (mixture, ["separation", "weight"]),
}


def of_vaebm(args, seed, folder):
    """Traces by name, seconds of the draws, and the step size eta."""
    path = Path(folder) / f"{seed}.npz"
    command = [args.vaebm, "chains", "--target-density", args.density, "--sampler", args.sampler, "--dim", args.dim,
               "--num-chains", args.chains, "--num-warmup", args.warmup, "--num-draws", args.draws, "--seed", seed,
               "--coordinates", args.coordinates, "--device", args.device, "--progress", "none", "--json", "--traces", path]
    for key in DENSITIES[args.density][1]:
        if key != "dim":
            command += ["--" + key.replace("_", "-"), getattr(args, key)]
    out = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout
    told = json.loads(out)
    return dict(np.load(path)), told["seconds"], told["step_size"]


def of_blackjax(args, seed, eta, names):
    """The same from BlackJAX."""
    make, keys = DENSITIES[args.density]
    log_density = make(*(getattr(args, key) for key in keys))
    if args.sampler == "mala":
        # Its step is x + e grad + sqrt(2 e) noise.
        kernel = blackjax.mala(log_density, eta / 2)
        init, step = jax.vmap(kernel.init), jax.vmap(kernel.step)
    else:
        gradient = jax.vmap(jax.grad(log_density))
        noise = jax.vmap(lambda key: jax.random.normal(key, (args.dim,), jnp.float32))
        init = lambda x: x
        step = lambda keys, x: (x + eta / 2 * gradient(x) + jnp.sqrt(eta) * noise(keys), None)
    coordinates = jnp.array([int(name[2:-1]) for name in names if name.startswith("x[")])

    def draw(state, key):
        state, _ = step(jax.random.split(key, args.chains), state)
        x = state.position if args.sampler == "mala" else state
        density = state.logdensity if args.sampler == "mala" else jax.vmap(log_density)(x)
        return state, (density, x[:, coordinates])

    run = jax.jit(lambda state, key, n: jax.lax.scan(draw, state, jax.random.split(key, n)), static_argnums=2)
    first, warm, draws = jax.random.split(jax.random.key(seed), 3)
    state = init(jax.random.normal(first, (args.chains, args.dim), jnp.float32))
    state, _ = jax.block_until_ready(run(state, warm, args.warmup))
    # Compiled before the clock starts.
    run.lower(state, draws, args.draws).compile()
    jax.block_until_ready(run(state, draws, args.draws))
    start = time.perf_counter()
    _, (density, x) = jax.block_until_ready(run(state, draws, args.draws))
    seconds = time.perf_counter() - start
    traces = {f"x[{int(c)}]": np.asarray(x[:, :, i]).T for i, c in enumerate(coordinates)}
    return {"log_density": np.asarray(density).T, **traces}, seconds


def worst(traces):
    """The smallest bulk effective sample size, and whose it is."""
    return min((float(arviz.ess(trace.astype(np.float64), method="bulk")), name) for name, trace in traces.items())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--vaebm", default="vaebm", help="the program")
    parser.add_argument("--device", default="cpu", help="vaebm's device; BlackJAX takes JAX's default")
    parser.add_argument("--density", choices=DENSITIES, default="gaussian")
    parser.add_argument("--sampler", choices=["mala", "ula"], default="mala")
    parser.add_argument("--dim", type=int, default=100)
    parser.add_argument("--condition-number", type=float, default=100.0)
    parser.add_argument("--separation", type=float, default=3.0)
    parser.add_argument("--weight", type=float, default=0.3)
    parser.add_argument("--chains", type=int, default=256)
    parser.add_argument("--warmup", type=int, default=500)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--coordinates", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print(f"{args.density}, {args.dim} dimensions, {args.sampler}, {args.chains} chains, {args.draws} draws; BlackJAX {blackjax.__version__}, "
          f"JAX {jax.__version__} on {jax.devices()[0].platform}, vaebm on {args.device}")
    print(f"{'seed':>4}{'eta':>10}{'vaebm ESS':>11}{'ESS/s':>10}{'steps/s':>12}{'BlackJAX ESS':>14}{'ESS/s':>10}{'steps/s':>12}{'ESS/s ratio':>13}")
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(1, args.rounds + 1):
            ours, ours_s, eta = of_vaebm(args, seed, folder)
            theirs, theirs_s = of_blackjax(args, seed, eta, list(ours))
            (a, _), (b, _) = worst(ours), worst(theirs)
            ratios.append(a / ours_s / (b / theirs_s))
            steps = args.chains * args.draws
            print(f"{seed:>4}{eta:>10.3g}{a:>11.0f}{a / ours_s:>10.0f}{steps / ours_s:>12.3g}{b:>14.0f}{b / theirs_s:>10.0f}"
                  f"{steps / theirs_s:>12.3g}{ratios[-1]:>13.2f}")
    print(f"median ratio {np.median(ratios):.2f}, from {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    main()
