"""PyTorch's time per Langevin step and per stage-1 step on the CPU, in every variant of `steps.py`.

    python bench_cpu.py                          all models, steps and variants; one JSON object
    python bench_cpu.py --models toy --variants eager,compiled --seconds 3

Every variant runs in its own process (`--worker`), and only one of them works at a time: while one is measured the others wait for a line on
stdin. The worker speaks the protocol of `vaebm bench --interactive`: it reads `langevin S`, `stage1 S` (measure for S seconds),
`check DIR` (run the case of a dump) or `quit`, and answers each with one line of JSON. `ratios.py` drives it together with `vaebm`.
"""

import argparse
import json
import os
from pathlib import Path
import statistics
import subprocess
import sys
import tempfile
import time

HERE = Path(__file__).parent
MODELS = ("toy", "medium")
VARIANTS = ("eager", "eager_tuned", "compiled", "compiled_tuned", "max_autotune")
KINDS = ("langevin", "stage1")


def quantile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))]


class Worker:
    """A process that answers lines of the bench protocol with JSON."""

    def __init__(self, name, command):
        self.name = name
        self.process = subprocess.Popen([str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, line):
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise SystemExit(f"{self.name}: ended before `{line}`, with code {self.process.wait()}") from None
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.name}: no answer to `{line}`; it ended with code {self.process.wait()}")
        try:
            return json.loads(answer)
        except json.JSONDecodeError:
            raise SystemExit(f"{self.name}: answered `{line}` with something other than JSON: {answer.strip()[:200]}") from None

    def close(self):
        if self.process.poll() is None:
            try:
                self.process.stdin.write("quit\n")
                self.process.stdin.close()
                self.process.wait(timeout=20)
            except (BrokenPipeError, subprocess.TimeoutExpired):
                self.process.kill()


def torch_worker(model, variant, weights, batch, threads):
    command = [sys.executable, HERE / "bench_cpu.py", "--worker", "--models", model, "--variants", variant,
               "--weights", weights, "--batch", batch, "--threads", threads]
    return Worker(f"PyTorch {variant} {model}", command)


def trained_weights(model, folder, threads):
    """Weights of a short training, made once per folder in a process of its own."""
    path = Path(folder) / model
    if not (path / "ebm.safetensors").exists():
        subprocess.run([sys.executable, HERE / "bench_cpu.py", "--train", str(path), "--models", model, "--threads", str(threads)], check=True)
    return path


def setup(threads):
    """Imports the parts that need PyTorch, after the number of threads is settled."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    import steps
    return torch, steps


def check(torch, steps, step, folder):
    """Largest relative difference of energies and states to a dump of `vaebm bench`, over its steps."""
    from safetensors import safe_open
    with safe_open(Path(folder) / "case.safetensors", "pt") as file:
        case = {key: file.get_tensor(key) for key in file.keys() if not key.startswith(("vae.", "ebm."))}
        step_size = float(file.metadata()["step_size"])
    groups = sum(key.startswith("init.eps_z.") for key in case)
    names = [f"eps_z.{g}" for g in range(groups)] + ["eps_x"]
    saved, steps.STEP_SIZE = (step.eps, steps.STEP_SIZE), step_size
    step.eps = [case[f"init.{name}"].clone(memory_format=torch.preserve_format).contiguous(memory_format=step.memory) for name in names]
    worst = {}
    count = 0
    while f"step{count}.energy" in case:
        noise = [case[f"noise_z.{count}.{g}"] for g in range(groups)] + [case[f"noise_x.{count}"]]
        energy = step([n.contiguous(memory_format=step.memory) for n in noise])
        for name, value in {"energy": energy, **dict(zip(names, step.eps))}.items():
            expected = case[f"step{count}.{name}"].double()
            difference = (value.double() - expected).abs().max() / expected.abs().max()
            worst[name] = max(worst.get(name, 0.0), difference.item())
        count += 1
    step.eps, steps.STEP_SIZE = saved
    return {"what": "check", "steps": count, "relative": worst}


def serve(args):
    """Answers requests for one model and variant; a step is built, and compiled, when first asked for."""
    torch, steps = setup(args.threads)
    model, variant = args.models[0], args.variants[0]
    built, compile_seconds = {}, {}

    def step_of(kind):
        if kind not in built:
            vae, energy = steps.load_networks(model, args.weights)
            torch.manual_seed(5)
            begin = time.perf_counter()
            built[kind] = (steps.LangevinStep(vae, energy, args.batch, **steps.LANGEVIN[variant]) if kind == "langevin"
                           else steps.TrainStep(vae, args.batch, **steps.STAGE1[variant]))
            for _ in range(2):
                built[kind]()
            compile_seconds[kind] = time.perf_counter() - begin
        return built[kind]

    for line in sys.stdin:
        what, _, argument = line.strip().partition(" ")
        if what == "quit":
            break
        if what == "check":
            answer = check(torch, steps, step_of("langevin"), argument)
        elif what in KINDS:
            step = step_of(what)
            begin = time.perf_counter()
            times = steps.measure(step, float(argument))
            answer = {"what": what, "steps": len(times), "seconds": time.perf_counter() - begin, "ms": times,
                      "first_two_steps_s": compile_seconds[what]}
        else:
            raise SystemExit(f"unknown request `{line.strip()}`: langevin S, stage1 S, check DIR or quit")
        print(json.dumps(answer), flush=True)


def measure_all(args):
    result = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.weights_dir or scratch
        for model in args.models:
            weights = trained_weights(model, folder, args.threads)
            for kind in args.kinds:
                slots = {}
                workers = [torch_worker(model, variant, weights, args.batch, args.threads) for variant in args.variants]
                for worker in workers:
                    worker.ask(f"{kind} 0")
                for _ in range(args.rounds):
                    for variant, worker in zip(args.variants, workers):
                        slots.setdefault(variant, []).append(worker.ask(f"{kind} {args.seconds}"))
                for worker in workers:
                    worker.close()
                for variant, answers in slots.items():
                    times = [ms for answer in answers for ms in answer["ms"]]
                    result.setdefault(model, {}).setdefault(kind, {})[variant] = row = {
                        "ms_min": min(times), "ms_median": statistics.median(times), "ms_q10": quantile(times, 0.1),
                        "ms_q90": quantile(times, 0.9), "steps": len(times), "first_two_steps_s": answers[0]["first_two_steps_s"]}
                    print(f"{model:7} {kind:9} {variant:15} min {row['ms_min']:8.1f} ms  median {row['ms_median']:8.1f} ms  "
                          f"first two steps {row['first_two_steps_s']:6.1f} s", file=sys.stderr)
    print(json.dumps({"batch": args.batch, "threads": args.threads, **result}, indent=1))


def names(known):
    def parse(text):
        chosen = text.split(",")
        for name in chosen:
            if name not in known:
                raise argparse.ArgumentTypeError(f"`{name}` is none of {', '.join(known)}")
        return chosen
    return parse


def add_common(parser):
    parser.add_argument("--models", type=names(MODELS), default=list(MODELS))
    parser.add_argument("--kinds", type=names(KINDS), default=list(KINDS))
    parser.add_argument("--variants", type=names(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a measuring slot")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--weights-dir", type=Path, help="keep briefly trained weights in this folder and use those that are there")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common(parser)
    parser.add_argument("--worker", action="store_true", help="serve one model and variant on stdin and stdout")
    parser.add_argument("--weights", type=Path, help="folder of the worker's networks: vae.safetensors and ebm.safetensors")
    parser.add_argument("--train", type=Path, help="train the one model briefly and write its weights into this folder")
    args = parser.parse_args()
    if args.train:
        _, steps = setup(args.threads)
        steps.save_networks(args.train, *steps.train_briefly(args.models[0]))
    elif args.worker:
        serve(args)
    else:
        measure_all(args)


if __name__ == "__main__":
    main()
