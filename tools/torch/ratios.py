"""How much faster `vaebm` is than PyTorch on this machine, measured side by side, as JSON.

    python ratios.py                                            target/release/vaebm against every variant of PyTorch
    python ratios.py --vaebm PATH --models toy --rounds 10 --variants eager,compiled_tuned
    python ratios.py --device cuda --batches 64,512 --steps 16    on a GPU: the variants of bench_gpu.py against every precision of ours

For every model (on a GPU, every model and batch): `vaebm` trains both stages for a few steps; `vaebm export` writes the weights, `vaebm bench --dump` three Langevin steps made
with them, and every PyTorch variant must reproduce energies and states; then all processes take turns in short slots, round after round, each with the same number of threads and only one
working at a time. A round's ratio is PyTorch's median over ours within that round; the quantiles are over rounds, so that a machine that is
slow for a while is slow for both. A ratio above 1 means that `vaebm` is faster.

`against.eager` is PyTorch as the published code is written; `against.best` is the fastest variant of all, chosen by its median over rounds.
Compile time is not in any slot; it is reported as `first_two_steps_s`. On a GPU `memory` has the peak of every process: what PyTorch's
allocator reserved, and what the GPU had less of free beside ours. `--logic` runs the GPU's variants on the cpu device, where they have no
graphs, to test the script.
"""

import argparse
import json
from pathlib import Path
import platform
import statistics
import subprocess
import sys
import tempfile

import bench_cpu
from bench_cpu import HERE, Worker, quantile
import bench_gpu

# Largest relative difference (of each tensor's maximum) that still counts as the same computation in float32. The chain's objective has
# kinks (clamped pixels, the bound of log sigma), where a rounding error can move a single element by half a step size.
TOLERANCE = 1e-4

# The same where factors are rounded to 11 or 8 bits: some roundings of a chain of layers.
ROUNDED = {"tf32": 1e-2, "bf16": 1e-1}

# Steps of each stage before measuring: enough that no weight, statistic or power iteration is still as initialised; fewer of the model
# that takes long.
TRAIN_STEPS = {"toy": (60, 20), "medium": (60, 20), "cifar10": (10, 5)}


def quantiles(values):
    return {"median": statistics.median(values), "q10": quantile(values, 0.1), "q90": quantile(values, 0.9), "rounds": len(values)}


def run_vaebm(args, *arguments):
    command = [str(part) for part in [args.vaebm, *arguments]]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"`{' '.join(command)}` ended with code {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout


def model_arguments(args, model):
    """Configuration and device; a GPU has threads of its own."""
    threads = [] if args.gpu else ["--threads", args.threads]
    return ["--config", HERE / f"{model}.toml", "--device", args.device, *threads]


def bench_arguments(args, model, run, precision, batch):
    steps = ["--steps", args.steps] if args.gpu else []
    return ["bench", *model_arguments(args, model), "--batch", batch, "--weights", run, "--precision", precision, *steps]


def trained_run(args, model, batch, folder):
    """The run folder of a short training of both stages, made once per folder, with the weights exported; and a dump made with them in
    each precision for this batch."""
    run = Path(folder) / f"{model}-run"
    if not (run / "ebm.safetensors").exists():
        stage1, stage2 = TRAIN_STEPS[model]
        common = [*model_arguments(args, model), "--progress", "none", "--out", run]
        run_vaebm(args, "train", "vae", *common, "--steps", stage1)
        run_vaebm(args, "export", run, "--network", "vae", "--out", run / "vae.safetensors")
        run_vaebm(args, "train", "ebm", *common, "--total-iter", stage2)
        run_vaebm(args, "export", run, "--network", "ebm", "--out", run / "ebm.safetensors")
    for precision in {"f32", *args.precisions}:
        dump = dump_folder(run, precision, batch)
        if not (dump / "case.safetensors").exists():
            arguments = bench_arguments(args, model, run, precision, min(batch, DUMPED))
            run_vaebm(args, *arguments, "--what", "langevin", "--dump", dump)
    return run


# Chains of a dump at most: a case of 512 is a file of gigabytes and shows no more.
DUMPED = 16


def dump_folder(run, precision, batch):
    return run / f"dump-{precision}-{min(batch, DUMPED)}"


def own_difference(run, precision, batch):
    """Largest relative difference of our own results in a precision to those in f32."""
    from safetensors.numpy import load_file
    exact, rounded = (load_file(dump_folder(run, p, batch) / "case.safetensors") for p in ("f32", precision))
    worst = 0.0
    for name, expected in exact.items():
        if name.startswith("step"):
            difference = float(abs(rounded[name] - expected).max() / abs(expected).max())
            # A difference that is not a number is the largest of all.
            worst = difference if difference != difference else max(worst, difference)
    return worst


def check_outputs(args, model, batch, workers, run):
    """Runs the dump of `vaebm` through every PyTorch worker; returns the largest relative difference of each, and of our precisions."""
    checks = {}
    folder = dump_folder(run, "f32", batch)
    for variant, worker in workers.items():
        answer = worker.ask(f"check {folder}")
        worst = max(answer["relative"].values(), default=float("inf"))
        checks[variant] = {"steps": answer["steps"], "largest_relative_difference": worst}
        if not (answer["steps"] > 0 and worst <= ROUNDED.get(answer.get("precision"), args.tolerance)):
            raise SystemExit(f"{model}: PyTorch {variant} and vaebm do not compute the same: {answer['relative']} over {answer['steps']} steps")
    for precision in args.precisions:
        if precision in ROUNDED:
            worst = own_difference(run, precision, batch)
            checks[f"vaebm {precision}"] = {"largest_relative_difference": worst}
            if not worst <= ROUNDED[precision]:
                raise SystemExit(f"{model}: vaebm in {precision} is {worst} from itself in f32")
    return checks


def own_memory(args, model, batch, run, kind, precision):
    """Bytes that `vaebm` takes of the GPU for a kind, of a process of its own."""
    arguments = bench_arguments(args, model, run, precision, batch)
    rows = json.loads(run_vaebm(args, *arguments, "--what", kind, "--seconds", "0.1", "--json"))
    return rows[0]["memory"]["device_bytes"]


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
    own = {name: medians.pop(name) for name in list(medians) if name.startswith("vaebm")}
    # The fastest of our precisions stands for us; on a cpu there is one.
    ours = min(own, key=lambda name: statistics.median(own[name]))
    ratio = {name: [theirs / mine for theirs, mine in zip(rounds, own[ours])] for name, rounds in medians.items()}
    best = min(medians, key=lambda name: statistics.median(medians[name]))
    rows = {name: {"ms_min": min(min(ms) for ms in rounds), "ms": quantiles([statistics.median(ms) for ms in rounds])}
            for name, rounds in slots.items()}
    for name in medians:
        rows[name]["first_two_steps_s"] = first[name].get("first_two_steps_s")
    against = {"best": {"variant": best, **quantiles(ratio[best])}}
    if "eager" in ratio:
        against["eager"] = quantiles(ratio["eager"])
    return {"ours": ours, "processes": rows, "against": against, "ratios": {name: quantiles(values) for name, values in ratio.items()}}


def machine():
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        name = next((line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")), name)
    load = Path("/proc/loadavg")
    return {"cpu": name, "load_average": load.read_text().split()[:3] if load.exists() else None}


def one(args, model, batch, folder):
    """Everything about one model and batch."""
    run = trained_run(args, model, batch, folder)
    row = {}
    # On a GPU each kind has processes of its own, so that not everything has to fit beside everything.
    groups = [[kind] for kind in args.kinds] if args.gpu else [args.kinds]
    for kinds in groups:
        if args.gpu:
            workers = {variant: bench_gpu.torch_worker(args.worker_arguments(batch), model, variant, run) for variant in args.variants}
        else:
            workers = {variant: bench_cpu.torch_worker(model, variant, run, batch, args.threads) for variant in args.variants}
        try:
            if "outputs" not in row:
                row["outputs"] = check_outputs(args, model, batch, workers, run)
            for precision in args.precisions:
                name = f"vaebm {precision}"
                command = [args.vaebm, *bench_arguments(args, model, run, precision, batch), "--what", ",".join(kinds), "--interactive"]
                workers[name] = Worker(f"{name} {model}", command)
                workers[name].ask("")
            for kind in kinds:
                first, slots = interleave(kind, workers, args.warm_up, args.seconds, args.rounds)
                row[kind] = summarise(first, slots)
                for name, values in row[kind]["against"].items():
                    print(f"{model:8} batch {batch:4} {kind:9} {row[kind]['ours']} against {name:6} {values.get('variant', ''):18} "
                          f"{values['median']:.2f}x ({values['q10']:.2f} to {values['q90']:.2f})", file=sys.stderr)
        finally:
            for worker in workers.values():
                worker.close()
        if args.gpu:
            # Ours after the others have gone: what is free on the GPU is its measure.
            row[kinds[0]]["memory"] = {
                **{name: first[name].get("peak_bytes") for name in args.variants},
                **{f"vaebm {p}": own_memory(args, model, batch, run, kinds[0], p) for p in args.precisions}}
    return row


def counts(text):
    return [int(part) for part in text.split(",")]


def parse():
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    first.add_argument("--logic", action="store_true", help="the GPU's variants on the cpu device, to test this script")
    chosen, _ = first.parse_known_args()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[first])
    parser.add_argument("--vaebm", type=Path, default=HERE.parents[1] / "target/release/vaebm")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="largest relative difference of outputs in f32")
    parser.add_argument("--warm-up", type=float, default=1.0, help="seconds at the beginning of a slot that do not count")
    gpu = chosen.device == "cuda" or chosen.logic
    (bench_gpu if gpu else bench_cpu).add_common(parser)
    if gpu:
        known = bench_cpu.names(("f32", "tf32", "bf16"))
        default = ["f32", "tf32", "bf16"] if chosen.device == "cuda" else ["f32"]
        parser.add_argument("--precisions", type=known, default=default, help="ours; the fastest is what ratios are of")
    parser.add_argument("--batches", type=counts, help="several batches instead of --batch, separated by commas")
    args = parser.parse_args()
    args.gpu = gpu
    if not gpu:
        args.precisions = ["f32"]
    args.batches = args.batches or [args.batch]
    args.worker_arguments = lambda batch: argparse.Namespace(device=args.device, batch=batch, steps=args.steps)
    return args


def main():
    args = parse()
    if not args.vaebm.exists():
        sys.exit(f"{args.vaebm}: not there; build it with `cargo build --release`, or name another with --vaebm")
    if args.rounds < 1:
        sys.exit("--rounds: at least 1")

    result = {"machine": machine(), "device": args.device, "slot_seconds": args.seconds, "models": {}}
    if not args.gpu:
        result["threads"] = args.threads
    with tempfile.TemporaryDirectory() as scratch:
        for model in args.models:
            for batch in args.batches:
                row = one(args, model, batch, args.weights_dir or scratch)
                result["models"].setdefault(model, {})[str(batch)] = row
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
