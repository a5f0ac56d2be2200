"""Holds these networks against the parity numbers of the official implementation.

    python check_parity.py [--parity ../../../shared/parity] [--compiled]

Float64 must agree to 2e-7 of each tensor's maximum (the files are rounded to float32), float32 within the README's rule. Both forms of the
chain are checked, the published and the folded one; with --compiled also torch.compile of both, in float32.

Parameters after whole training steps are compared in float64 alone. In float32 Adamax turns the rounding error of a gradient's smallest
elements (0.01 in a tensor that reaches 1,000) into steps of 1e-5, in any order of summation; there the gradients are held by
`stage1_train`, the optimiser by `unit/adamax`.
"""

import argparse
import fnmatch
import json
import math
from pathlib import Path
import sys

import torch
from safetensors import safe_open

from chain import Chain, FoldedChain, langevin_update
from model import EnergyNet, Nvae, NvaeConfig, load_official
from objective import Adamax, SpectralNorm, Stage1, reconstruction_loss

# True gradients of 0 (biases before a batch norm): the files hold rounding noise there, in float64 too.
NOISE = 1e-9


class Case:
    """One parity file: inputs in the wanted precision, and a tally of compared expectations."""

    def __init__(self, root, name, dtype):
        self.name, self.dtype = name, dtype
        with safe_open(root / f"{name}.safetensors", "pt") as file:
            self.tensors = {key: file.get_tensor(key) for key in file.keys()}
            self.meta = file.metadata() or {}
        self.tolerances = json.loads((root / f"{name}.tol.json").read_text())
        self.ceilings = json.loads((root.parent / "ceilings.json").read_text())
        self.folder = root.name
        self.compared, self.failed, self.worst = 0, [], 0.0

    def __getitem__(self, key):
        tensor = self.tensors[key]
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

    def group(self, prefix):
        """Tensors `prefix.0`, `prefix.1`, ..."""
        found = []
        while f"{prefix}.{len(found)}" in self.tensors:
            found.append(self[f"{prefix}.{len(found)}"])
        return found

    def named(self, prefix):
        return {key.removeprefix(prefix): self[key] for key in self.tensors if key.startswith(prefix)}

    def limit(self, key):
        tolerance = self.tolerances[key]
        if self.dtype == torch.float64:
            noise = NOISE if ".grad." in key and tolerance["max"] < NOISE else 0.0
            return max(2e-7 * tolerance["max"], noise)
        limit = 10 * tolerance["abs"] + 2e-6 * tolerance["max"]
        for test, tensor, ceiling in self.ceilings:
            if fnmatch.fnmatch(f"{self.folder}/{self.name}", test) and fnmatch.fnmatch(key, tensor):
                return limit if ceiling is None else min(limit, ceiling * tolerance["max"])
        raise KeyError(f"no ceiling for {self.name} {key}")

    def expect(self, key, value):
        expected = self.tensors[key].double()
        value = torch.as_tensor(value).detach().double()
        if value.shape != expected.shape:
            raise ValueError(f"{self.name} {key}: shape {tuple(value.shape)}, expected {tuple(expected.shape)}")
        difference = (value - expected).abs().max().item()
        limit = self.limit(key)
        self.compared += 1
        if not difference <= limit:
            self.failed.append(f"{self.name} {key}: differs by {difference:.3g}, limit {limit:.3g}")
        elif limit > 0:
            self.worst = max(self.worst, difference / limit)


def networks(root, dtype):
    args = json.loads((root / "A/args.json").read_text())
    keys = NvaeConfig.__dataclass_fields__.keys() & args.keys()
    vae, energy = Nvae(NvaeConfig(**{key: args[key] for key in keys})), EnergyNet("cifar32", 16)
    for module, name in ((vae, "vae"), (energy, "ebm")):
        with safe_open(root / f"A/{name}.safetensors", "pt") as file:
            load_official(module, {key: file.get_tensor(key) for key in file.keys()})
    layers = json.loads((root / "A/layers.json").read_text())
    count = sum(p.numel() for p in vae.parameters())
    if count != layers["n_params"]:
        raise ValueError(f"{count} parameters, expected {layers['n_params']}")
    return vae.to(dtype), energy.to(dtype)


def stage1_eval(root, dtype):
    case = Case(root / "A", "stage1_eval", dtype)
    vae, _ = networks(root, dtype)
    vae.eval()
    weights, nelbo = [], []
    for k in range(3):
        with torch.no_grad():
            elbo = vae(case["x"], case.group(f"eps.{k}"), log_densities=True)
            recon = reconstruction_loss(elbo.logits, case["x"])
        log_q, log_p = (sum(part.sum(dim=(1, 2, 3)) for part in parts) for parts in (elbo.log_q, elbo.log_p))
        kl_all = [kl.sum(dim=(1, 2, 3)) for kl in elbo.kl]
        weights.append(-recon - log_q + log_p)
        nelbo.append((recon + sum(kl_all)).mean())
        values = dict(logits=elbo.logits, log_q=log_q, log_p=log_p, recon_loss=recon, kl=sum(kl_all), log_iw=weights[-1])
        values.update({f"kl_all.{g}": kl for g, kl in enumerate(kl_all)})
        for key, value in values.items():
            case.expect(f"k{k}.{key}", value)
    mean, bound = sum(nelbo) / 3, (torch.logsumexp(torch.stack(weights), dim=0) - math.log(3)).mean()
    bits = math.log(2) * case["x"][0].numel()
    for key, value in dict(nelbo=mean, log_p=bound, bpd_elbo=mean / bits, bpd_logp=-bound / bits).items():
        case.expect(key, value)
    return case


def stage1_train(root, dtype):
    case = Case(root / "A", "stage1_train", dtype)
    vae, _ = networks(root, dtype)
    vae.train()
    stage = Stage1(vae, case.named("sr_u0."))
    case.expect("alpha_i", stage.alphas)
    parameters = dict(vae.named_parameters())
    adamax = Adamax(parameters.values(), lr=1e-2)
    for it in range(3):
        kl_coeff = (0.3, 0.6, 1.0)[it]
        eps = case.group(f"eps.{it}")
        loss, parts = stage.loss(case[f"x.{it}"], eps, kl_coeff, 0.1, 40 if it == 0 else 4)
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        kl = parts.pop("kl")
        values = {key: value for key, value in parts.items() if key != "kl_all"} | {"loss": loss}
        values["balanced_kl"] = kl_coeff * values["balanced_kl"]
        values["kl_vals"] = parts["kl_all"].mean(dim=1)
        for g, group in enumerate(kl):
            values[f"kl_all.{g}"] = group.sum(dim=(1, 2, 3))
            values[f"kl_diag.{g}"] = group.sum(dim=(2, 3)).mean(dim=0)
        values.update({f"sr_u.{name}": u for name, u in stage.spectral.vectors().items()})
        if it == 0:
            values.update({f"grad.{name}": gradient for name, gradient in zip(parameters, gradients)})
        for key, value in values.items():
            case.expect(f"it{it}.{key}", value)
        adamax.step(gradients)
        if it != 1:
            state = vae.state_dict()
            for key in case.tensors:
                name = key.removeprefix(f"after{it + 1}.")
                if name != key and (dtype == torch.float64 or name not in parameters):
                    case.expect(key, state[name].to(dtype))
    return case


def adamax(root, dtype):
    case = Case(root / "unit", "adamax", dtype)
    parameters = case.group("p0")
    optimiser = Adamax(parameters, lr=0.0)
    for it in range(6):
        optimiser.lr = case[f"lr.{it}"].item()
        optimiser.step(case.group(f"g.{it}"))
        for i, parameter in enumerate(parameters):
            case.expect(f"after.{it}.{i}", parameter)
    for i in range(len(parameters)):
        case.expect(f"state.exp_avg.{i}", optimiser.average[i])
        case.expect(f"state.exp_inf.{i}", optimiser.maximum[i])
    return case


def ebm_forward(root, dtype):
    case = Case(root / "A", "ebm_forward", dtype)
    _, energy = networks(root, dtype)
    parameters = dict(energy.named_parameters())
    x = case["x"].requires_grad_()
    value = energy(x)
    gradients = torch.autograd.grad(value.sum(), [x, *parameters.values()])
    case.expect("energy", value)
    case.expect("grad_x", gradients[0])
    for name, gradient in zip(parameters, gradients[1:]):
        case.expect(f"grad.{name}", gradient)
    spectral = SpectralNorm(energy, case.named("sr_u0."))
    for total, iterations in ((40, 40), (44, 4)):
        energy(x)
        loss = spectral.loss(iterations)
        case.expect(f"sr_loss.{total}", loss)
        for name, u in spectral.vectors().items():
            case.expect(f"sr_u{total}.{name}", u)
        if total == 40:
            names = [name for name in parameters if f"sr_grad.{name}" in case.tensors]
            for name, gradient in zip(names, torch.autograd.grad(loss, [parameters[name] for name in names])):
                case.expect(f"sr_grad.{name}", gradient)
    return case


def langevin(root, dtype, name, form, compiled=False):
    case = Case(root / "A", name, dtype)
    chain = form(*networks(root, dtype))
    if compiled:
        chain.parts = torch.compile(chain.parts, dynamic=False)
    eps = [*case.group("init.eps_z"), case["init.eps_x"]]
    batch = eps[-1].shape[0]
    for k in range(5):
        eps = [e.detach().requires_grad_() for e in eps]
        energy, log_pz, log_px, x, logits = chain.parts(eps[:-1], eps[-1])
        gradients = torch.autograd.grad((energy - log_pz - log_px).sum(), eps)
        values = dict(energy=energy, log_p_total=log_pz, log_pxgz=log_px, dvalue=energy - log_pz - log_px, neg_x=x, logits=logits)
        names = [f"eps_z.{g}" for g in range(len(eps) - 1)] + ["eps_x"]
        values.update({f"grad_of_mean.{key}": gradient / batch for key, gradient in zip(names, gradients)})
        eps = [e.detach() for e in eps]
        langevin_update(eps, gradients, [*case.group(f"noise_z.{k}"), case[f"noise_x.{k}"]], float(case.meta["step_size"]))
        values.update(zip(names, eps))
        for key, value in values.items():
            case.expect(f"step{k}.{key}", value)
    return case


def energy_nets(root, dtype):
    for name in ("cifar32", "celeba64", "lsun64", "mnist", "celeba256"):
        case = Case(root / "unit", f"ebm_{name}", dtype)
        weights = case.named("w.")
        n = weights["conv1.weight"].shape[0]
        energy = load_official(EnergyNet(name, n, weights["conv1.weight"].shape[1]).to(dtype), weights)
        x = case["x"].requires_grad_()
        value = energy(x)
        case.expect("energy", value)
        case.expect("grad_x", torch.autograd.grad(value.sum(), x)[0])
        yield case


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parity", type=Path, default=Path(__file__).parents[2] / "../shared/parity")
    parser.add_argument("--compiled", action="store_true", help="check torch.compile of both chains too")
    args = parser.parse_args()
    torch.set_num_threads(1)  # small tensors: more threads only wait for each other
    root = args.parity
    if not (root / "A/vae.safetensors").exists():
        sys.exit(f"{root}: no parity cases there; name their folder with --parity")
    failed = []
    for dtype in (torch.float64, torch.float32):
        runs = [("stage1_eval", stage1_eval(root, dtype)), ("stage1_train", stage1_train(root, dtype)),
                ("adamax", adamax(root, dtype)), ("ebm_forward", ebm_forward(root, dtype))]
        runs += [(case.name, case) for case in energy_nets(root, dtype)]
        for name in ("langevin_8e-5", "langevin_5e-6"):
            for form in (Chain, FoldedChain):
                runs.append((f"{name} {form.__name__}", langevin(root, dtype, name, form)))
                if args.compiled and dtype == torch.float32:
                    runs.append((f"{name} {form.__name__} compiled", langevin(root, dtype, name, form, compiled=True)))
        for label, case in runs:
            verdict = "ok" if not case.failed else f"{len(case.failed)} FAILED"
            print(f"{str(dtype):14} {label:36} {case.compared:5} tensors, worst {case.worst:.2f} of its limit: {verdict}")
            failed += [f"{dtype} {line}" for line in case.failed]
    print("\n".join(failed[:20]))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
