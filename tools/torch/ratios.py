"""How much faster `vaebm` is than PyTorch on this machine, measured side by side, as JSON.

    python ratios.py                                            target/release/vaebm against every variant of PyTorch
    python ratios.py --vaebm PATH --models toy --rounds 10 --variants eager,compiled_tuned

For every model: `vaebm` trains both stages for a few steps; `vaebm export` writes the weights, `vaebm bench --dump` three Langevin steps made
with them, and every PyTorch variant must reproduce energies and states; then all processes take turns in short slots, round after round, each with the same number of threads and only one
working at a time. A round's ratio is PyTorch's median over ours within that round; the quantiles are over rounds, so that a machine that is
slow for a while is slow for both. A ratio above 1 means that `vaebm` is faster.

`against.eager` is PyTorch as the published code is written; `against.best` is the fastest variant of all, chosen by its median over rounds.
Compile time is not in any slot; it is reported as `first_two_steps_s`.
"""

import argparse
import json
from pathlib import Path
import platform
import statistics
import subprocess
import sys
import tempfile

from bench_cpu import HERE, Worker, add_common, quantile, torch_worker

# Largest relative difference (of each tensor's maximum) that still counts as the same computation in float32. The chain's objective has
# kinks (clamped pixels, the bound of log sigma), where a rounding error can move a single element by half a step size.
TOLERANCE = 1e-4

# Steps of each stage before measuring: enough that no weight, statistic or power iteration is still as initialised.
TRAIN_STEPS, ENERGY_STEPS = 60, 20


def quantiles(values):
    return {"median": statistics.median(values), "q10": quantile(values, 0.1), "q90": quantile(values, 0.9), "rounds": len(values)}


def run_vaebm(args, *arguments):
    command = [str(part) for part in [args.vaebm, *arguments]]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"`{' '.join(command)}` ended with code {done.returncode}: {done.stderr.strip()[-500:]}")


def bench_arguments(args, model, run):
    return ["bench", "--config", HERE / f"{model}.toml", "--batch", args.batch, "--threads", args.threads, "--weights", run]


def trained_run(args, model, folder):
    """The run folder of a short training of both stages, made once per folder, with the weights exported and a dump made with them."""
    run = Path(folder) / f"{model}-run"
    if not (run / "case.safetensors").exists():
        common = ["--config", HERE / f"{model}.toml", "--threads", args.threads, "--progress", "none", "--out", run]
        run_vaebm(args, "train", "vae", *common, "--steps", TRAIN_STEPS)
        run_vaebm(args, "export", run, "--network", "vae", "--out", run / "vae.safetensors")
        run_vaebm(args, "train", "ebm", *common, "--total-iter", ENERGY_STEPS)
        run_vaebm(args, "export", run, "--network", "ebm", "--out", run / "ebm.safetensors")
        run_vaebm(args, *bench_arguments(args, model, run), "--dump", run)
    return run


def check_outputs(args, model, workers, run):
    """Runs the dump of `vaebm` through every PyTorch worker; returns the largest relative difference of each."""
    checks = {}
    for variant, worker in workers.items():
        answer = worker.ask(f"check {run}")
        worst = max(answer["relative"].values(), default=float("inf"))
        checks[variant] = {"steps": answer["steps"], "largest_relative_difference": worst}
        if not (answer["steps"] > 0 and worst <= args.tolerance):
            raise SystemExit(f"{model}: PyTorch {variant} and vaebm do not compute the same: {answer['relative']} over {answer['steps']} steps")
    return checks


def interleave(kind, workers, warm_up, seconds, rounds):
    """Milliseconds per step of every worker in every round; the order turns by one from round to round.

    A slot begins with steps that do not count: what a process that has been waiting finds in caches, or of its memory at all, is not
    what is compared here.
    """
    first = {name: worker.ask(f"{kind} 0.1") for name, worker in workers.items()}
    order = list(workers)
    slots = {name: [] for name in order}
    for _ in range(rounds):
        for name in order:
            workers[name].ask(f"{kind} {warm_up}")
            slots[name].append(workers[name].ask(f"{kind} {seconds}")["ms"])
        order = order[1:] + order[:1]
    return first, slots


def summarise(first, slots):
    medians = {name: [statistics.median(ms) for ms in rounds] for name, rounds in slots.items()}
    ours = medians.pop("vaebm")
    ratio = {name: [theirs / own for theirs, own in zip(rounds, ours)] for name, rounds in medians.items()}
    best = min(medians, key=lambda name: statistics.median(medians[name]))
    rows = {name: {"ms_min": min(min(ms) for ms in rounds), "ms": quantiles([statistics.median(ms) for ms in rounds])}
            for name, rounds in slots.items()}
    for name in medians:
        rows[name]["first_two_steps_s"] = first[name].get("first_two_steps_s")
    against = {"best": {"variant": best, **quantiles(ratio[best])}}
    if "eager" in ratio:
        against["eager"] = quantiles(ratio["eager"])
    return {"processes": rows, "against": against, "ratios": {name: quantiles(values) for name, values in ratio.items()}}


def machine():
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        name = next((line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")), name)
    load = Path("/proc/loadavg")
    return {"cpu": name, "load_average": load.read_text().split()[:3] if load.exists() else None}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vaebm", type=Path, default=HERE.parents[1] / "target/release/vaebm")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="largest relative difference of outputs")
    parser.add_argument("--warm-up", type=float, default=1.0, help="seconds at the beginning of a slot that do not count")
    add_common(parser)
    args = parser.parse_args()
    if not args.vaebm.exists():
        sys.exit(f"{args.vaebm}: not there; build it with `cargo build --release`, or name another with --vaebm")
    if args.rounds < 1:
        sys.exit("--rounds: at least 1")

    result = {"machine": machine(), "threads": args.threads, "batch": args.batch, "slot_seconds": args.seconds, "models": {}}
    with tempfile.TemporaryDirectory() as scratch:
        for model in args.models:
            run = trained_run(args, model, args.weights_dir or scratch)
            workers = {variant: torch_worker(model, variant, run, args.batch, args.threads) for variant in args.variants}
            try:
                row = result["models"][model] = {"outputs": check_outputs(args, model, workers, run)}
                command = [args.vaebm, *bench_arguments(args, model, run), "--interactive"]
                workers["vaebm"] = Worker(f"vaebm {model}", command)
                for kind in args.kinds:
                    row[kind] = summarise(*interleave(kind, workers, args.warm_up, args.seconds, args.rounds))
                    for name, values in row[kind]["against"].items():
                        print(f"{model:7} {kind:9} against {name:6} {values.get('variant', ''):15} {values['median']:.2f}x "
                              f"({values['q10']:.2f} to {values['q90']:.2f})", file=sys.stderr)
            finally:
                for worker in workers.values():
                    worker.close()
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
