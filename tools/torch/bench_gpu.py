"""PyTorch's time per Langevin step, stage-1 step, energy update and batch of samples on a GPU, in every variant of `steps_gpu.py`.

    python bench_gpu.py                                          all models, kinds and variants; one JSON object
    python bench_gpu.py --models cifar10 --batch 512 --steps 16 --kinds langevin --variants eager,max_autotune_bf16
    python bench_gpu.py --device cpu --models toy --batch 2 --steps 2 --seconds 0.1 --rounds 1     the same code without a GPU, for testing it

Every variant runs in its own process (`--worker`), and only one of them works at a time. The worker speaks the protocol of `vaebm bench
--interactive`: it reads `langevin S`, `stage1 S`, `energy S`, `sample S` (measure for S seconds), `check DIR` (run the case of a dump) or
`quit`, and answers each with one line of JSON. `ratios.py --device cuda` drives it together with `vaebm`.
"""

import argparse
import json
from pathlib import Path
import statistics
import subprocess
import sys
import tempfile
import time

from bench_cpu import HERE, Worker, names, quantile

MODELS = ("toy", "medium", "cifar10")
VARIANTS = ("eager", "eager_bf16", "graph_bf16", "compiled", "max_autotune_tf32", "max_autotune_bf16")
KINDS = ("langevin", "stage1", "energy", "sample")


def torch_worker(args, model, variant, weights):
    command = [sys.executable, HERE / "bench_gpu.py", "--worker", "--device", args.device, "--models", model, "--variants", variant,
               "--weights", weights, "--batch", args.batch, "--steps", args.steps]
    return Worker(f"PyTorch {variant} {model}", command)


def trained_weights(args, model, folder):
    """Weights of a short training, made once per folder in a process of its own."""
    path = Path(folder) / model
    if not (path / "ebm.safetensors").exists():
        command = [sys.executable, HERE / "bench_gpu.py", "--train", path, "--models", model, "--device", args.device]
        subprocess.run([str(part) for part in command], check=True)
    return path


def setup(device):
    import torch
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("PyTorch finds no GPU: run this on a machine that has one, or the same code with --device cpu")
    import steps
    import steps_gpu
    return torch, steps, steps_gpu


def check(torch, steps_gpu, langevin, folder):
    """Largest relative difference of energies and states to a dump of `vaebm bench`, over its steps."""
    from safetensors import safe_open
    with safe_open(Path(folder) / "case.safetensors", "pt") as file:
        case = {key: file.get_tensor(key) for key in file.keys() if not key.startswith(("vae.", "ebm."))}
        step_size = float(file.metadata()["step_size"])
    groups = sum(key.startswith("init.eps_z.") for key in case)
    labels = [f"eps_z.{g}" for g in range(groups)] + ["eps_x"]
    count = sum(key.endswith(".energy") for key in case)
    noises = [[case[f"noise_z.{k}.{g}"] for g in range(groups)] + [case[f"noise_x.{k}"]] for k in range(count)]
    # Convolutions in f32 are taken at their word here; by itself PyTorch lets them round to TF32.
    torch.backends.cudnn.allow_tf32 = langevin.variant.precision == "tf32"
    told = langevin.given([case[f"init.{label}"] for label in labels], noises, step_size)
    torch.backends.cudnn.allow_tf32 = True
    worst = {}
    for k, (energy, states) in enumerate(told):
        for label, value in {"energy": energy, **dict(zip(labels, states))}.items():
            expected = case[f"step{k}.{label}"].double()
            difference = ((value.double() - expected).abs().max() / expected.abs().max()).item()
            # A difference that is not a number is the largest of all.
            worst[label] = difference if difference != difference else max(worst.get(label, 0.0), difference)
    return {"what": "check", "steps": count, "relative": worst, "precision": langevin.variant.precision}


def serve(args):
    """Answers requests for one model and variant; a submission is built, compiled and captured when first asked for."""
    torch, steps, steps_gpu = setup(args.device)
    model, name = args.models[0], args.variants[0]
    device, variant = torch.device(args.device), steps_gpu.VARIANTS[name]
    built, first_seconds = {}, {}

    def submission_of(kind):
        if kind not in built:
            vae, energy = steps.load_networks(model, args.weights)
            torch.manual_seed(5)
            begin = time.perf_counter()
            built[kind] = steps_gpu.build(kind, vae, energy, args.batch, args.steps, variant, device)
            for _ in range(2):
                built[kind][0]()
            first_seconds[kind] = time.perf_counter() - begin
        return built[kind]

    for line in sys.stdin:
        what, _, argument = line.strip().partition(" ")
        if what == "quit":
            break
        if what == "check":
            answer = check(torch, steps_gpu, submission_of("langevin")[0], argument)
        elif what in KINDS:
            submission, per_submission = submission_of(what)
            times = steps_gpu.measure(submission, per_submission, float(argument), device)
            answer = {"what": what, "steps": len(times), "ms": times, "first_two_steps_s": first_seconds[what]}
            if device.type == "cuda":
                answer["peak_bytes"] = torch.cuda.max_memory_reserved()
        else:
            raise SystemExit(f"unknown request `{line.strip()}`: {' S, '.join(KINDS)} S, check DIR or quit")
        print(json.dumps(answer), flush=True)


def measure_all(args):
    result = {}
    with tempfile.TemporaryDirectory() as scratch:
        for model in args.models:
            weights = trained_weights(args, model, args.weights_dir or scratch)
            for kind in args.kinds:
                rows = result.setdefault(model, {}).setdefault(kind, {})
                # One process per kind, so that its peak of memory is that of the kind.
                workers = {variant: torch_worker(args, model, variant, weights) for variant in args.variants}
                first = {variant: worker.ask(f"{kind} 0") for variant, worker in workers.items()}
                slots = {variant: [] for variant in workers}
                for _ in range(args.rounds):
                    for variant, worker in workers.items():
                        slots[variant].append(worker.ask(f"{kind} {args.seconds}"))
                for variant, worker in workers.items():
                    worker.close()
                    times = [ms for answer in slots[variant] for ms in answer["ms"]]
                    rows[variant] = row = {
                        "ms_median": statistics.median(times), "ms_q10": quantile(times, 0.1), "ms_q90": quantile(times, 0.9),
                        "runs": len(times), "first_two_steps_s": first[variant]["first_two_steps_s"],
                        "peak_bytes": slots[variant][-1].get("peak_bytes")}
                    print(f"{model:8} {kind:9} {variant:18} median {row['ms_median']:9.3f} ms  "
                          f"first two steps {row['first_two_steps_s']:6.1f} s", file=sys.stderr)
    print(json.dumps({"device": args.device, "batch": args.batch, "steps": args.steps, **result}, indent=1))


def add_common(parser):
    parser.add_argument("--models", type=names(MODELS), default=["cifar10"])
    parser.add_argument("--kinds", type=names(KINDS), default=list(KINDS))
    parser.add_argument("--variants", type=names(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=16, help="Langevin steps of one submission, and of a sample")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a measuring slot")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--weights-dir", type=Path, help="keep briefly trained weights in this folder and use those that are there")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common(parser)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--worker", action="store_true", help="serve one model and variant on stdin and stdout")
    parser.add_argument("--weights", type=Path, help="folder of the worker's networks: vae.safetensors and ebm.safetensors")
    parser.add_argument("--train", type=Path, help="train the one model briefly and write its weights into this folder")
    args = parser.parse_args()
    if args.train:
        _, steps, _ = setup(args.device)
        steps.save_networks(args.train, *steps.train_briefly(args.models[0], steps=steps.SHORT.get(args.models[0], 60)))
    elif args.worker:
        serve(args)
    else:
        measure_all(args)


if __name__ == "__main__":
    main()
