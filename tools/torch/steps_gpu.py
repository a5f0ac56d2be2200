"""The measured steps on a GPU, each as one submission without Python inside: K Langevin steps, a step of either stage, sampling.

A variant says what is done for speed: networks folded (see `chain.py`), channels_last, bf16 or TF32 products, torch.compile in mode
max-autotune, and one CUDA graph for the whole submission. `eager` is plain f32, as the published code runs. On the cpu device there are
no graphs; everything else runs the same, which is how this file is tested without a GPU.
"""

from contextlib import nullcontext
import functools
import time

import torch
from torch import nn
import torch.nn.functional as F

from chain import Chain, FoldedChain, langevin_update
from objective import Adamax, SpectralNorm, Stage1, balanced_kl, reconstruction_loss
import steps
from steps import KL_COEFF, LEARNING_RATE, REGULARISER, make_eps, smooth_images

# The optimiser of stage 2 and the weight of its regularisation, as published.
ENERGY_RATE, ENERGY_BETAS, ENERGY_DECAY, ENERGY_REGULARISER = 4e-5, (0.99, 0.999), 3e-5, 0.2
CLIP_SIGMAS, CLIP_FLOOR = 3.0, 0.1
POWER_ITERATIONS = 4


class Variant:
    """What is done for speed, by name."""

    def __init__(self, precision="f32", tuned=False, compiled=False, graph=False):
        self.precision, self.tuned, self.compiled, self.graph = precision, tuned, compiled, graph

    @property
    def memory(self):
        return torch.channels_last if self.tuned else torch.contiguous_format

    def autocast(self, device):
        if self.precision != "bf16":
            return nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=not self.graph)

    def compile(self, function):
        """The function compiled; graphs are captured around it, so that the compiler makes none of its own."""
        if not self.compiled:
            return function
        mode = "max-autotune-no-cudagraphs" if self.tuned else "default"
        return torch.compile(function, dynamic=False, mode=mode)


VARIANTS = {
    "eager": Variant(),
    "eager_bf16": Variant("bf16", tuned=True),
    "graph_bf16": Variant("bf16", tuned=True, graph=True),
    "compiled": Variant(compiled=True),
    "max_autotune_tf32": Variant("tf32", tuned=True, compiled=True, graph=True),
    "max_autotune_bf16": Variant("bf16", tuned=True, compiled=True, graph=True),
}


def choose_precision(variant):
    """Process-wide switches: convolutions in f32 take TF32 unless told otherwise, as PyTorch does by itself; products do with `tf32`."""
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = variant.precision != "f32"
    torch.backends.cudnn.allow_tf32 = True


class Submission:
    """`body`, which does the same to the same tensors each time, as a callable: captured once as a CUDA graph where the variant has one."""

    def __init__(self, body, graph, device):
        self.body, self.device, self.graph = body, device, None
        if graph and device.type == "cuda":
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    body()
            torch.cuda.current_stream().wait_stream(side)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.result = body()

    def __call__(self):
        if self.graph is None:
            return self.body()
        self.graph.replay()
        return self.result


def to_float(module, *_):
    """Lets a module's result go on in f32: parameters of distributions, of which exponentials and logarithms are taken."""
    module.register_forward_hook(lambda module, arguments, result: result.float())


def narrow(network):
    """Weights of convolutions and matrices as bf16 once, instead of a rounding in every step."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(torch.bfloat16)
    for name, buffer in network.named_buffers():
        if name.endswith(("features", "weight")):
            buffer.data = buffer.data.to(torch.bfloat16)


class ExactLinear(nn.Module):
    """The last layer of an energy network in f32: an energy of 8 bits would be no energy."""

    def __init__(self, linear):
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x):
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.float(), self.weight.float(), self.bias.float())


def make_chain(vae, energy, variant, device):
    """The chain of a variant on a device, ready to be differentiated."""
    chain = (FoldedChain if variant.tuned else Chain)(vae, energy)
    for network in (chain.vae, chain.energy):
        network.to(device=device, memory_format=variant.memory)
    if variant.precision == "bf16":
        for sampler in chain.vae.samplers if variant.tuned else [s[1] for s in chain.vae.dec_sampler]:
            to_float(sampler)
        to_float(chain.vae.output if variant.tuned else chain.vae.image_conditional)
        exact = ExactLinear(chain.energy.linear)
        narrow(chain.vae)
        # The last layer is out of the way of `narrow`: its weights stay as they are.
        chain.energy.linear = nn.Identity()
        narrow(chain.energy)
        chain.energy.linear = exact
    return chain


class Langevin:
    """`count` Langevin steps of a batch as one submission; the state is `self.eps` = (eps_z..., eps_x)."""

    def __init__(self, vae, energy, batch, count, variant, device):
        choose_precision(variant)
        self.variant, self.device, self.count = variant, device, count
        self.chain = make_chain(vae, energy, variant, device)
        self.eps = [e.to(device).contiguous(memory_format=variant.memory) for e in make_eps(vae.config, batch)]
        self.noise = [torch.empty_like(e) for e in self.eps]
        self.objective = variant.compile(self.chain.objective)
        self.update = variant.compile(langevin_update)
        self.submission = Submission(self.advance, variant.graph, device)

    def step(self, noise, step_size):
        leaves = [e.detach().requires_grad_() for e in self.eps]
        with self.variant.autocast(self.device):
            total, energy = self.objective(leaves[:-1], leaves[-1])
        gradients = torch.autograd.grad(total, leaves)
        self.update(self.eps, list(gradients), noise, step_size)
        return energy.detach()

    def advance(self):
        for _ in range(self.count):
            for buffer in self.noise:
                buffer.normal_()
            energy = self.step(self.noise, steps.STEP_SIZE)
        return energy

    def __call__(self):
        return self.submission()

    def given(self, eps, noises, step_size):
        """Energies and states of steps with the noise given, from the state given: for a check against another implementation."""
        saved = [e.clone() for e in self.eps]
        for own, new in zip(self.eps, eps):
            own.copy_(new)
        told = []
        for noise in noises:
            # The optimised kernels: the eager step around a compiled objective, without a graph.
            noise = [n.to(self.device).contiguous(memory_format=self.variant.memory) for n in noise]
            told.append((self.step(noise, step_size).cpu(), [e.cpu().clone() for e in self.eps]))
        for own, old in zip(self.eps, saved):
            own.copy_(old)
        return told


class Sampling:
    """A batch of chains from fresh noise through `count` steps to images on the host."""

    def __init__(self, vae, energy, batch, count, variant, device):
        self.langevin = Langevin(vae, energy, batch, count, Variant(variant.precision, variant.tuned, variant.compiled), device)
        self.variant = variant
        self.submission = Submission(self.draw, variant.graph, device)

    def draw(self):
        chain, eps = self.langevin.chain, self.langevin.eps
        for e in eps:
            e.normal_()
        self.langevin.advance()
        with torch.no_grad(), self.variant.autocast(self.langevin.device):
            logits, _ = chain.sample(eps[:-1])
            return (5 * torch.tanh(logits.chunk(2, dim=1)[0].float() / 5)) / 2 + 0.5

    def __call__(self):
        return self.submission().float().cpu()


class VaeStep:
    """One stage-1 step: ELBO with balanced KL, regularisation, backward, Adamax."""

    def __init__(self, vae, batch, variant, device):
        choose_precision(variant)
        self.variant, self.device = variant, device
        self.vae = vae.train().requires_grad_(True).to(device=device, memory_format=variant.memory)
        if variant.precision == "bf16":
            for sampler in [*vae.enc_sampler, *(s[1] for s in vae.dec_sampler), vae.image_conditional]:
                to_float(sampler)
        images = smooth_images(batch, vae.config, torch.Generator().manual_seed(3))
        self.images = images.to(device).contiguous(memory_format=variant.memory)
        self.eps = [e.to(device).contiguous(memory_format=variant.memory) for e in make_eps(vae.config, batch)[:-1]]
        self.stage = Stage1(self.vae)
        self.stage.alphas = self.stage.alphas.to(device)
        self.adamax = Adamax(self.vae.parameters(), lr=LEARNING_RATE)
        with torch.no_grad():
            self.vae(self.images, self.eps)
            self.stage.spectral.loss(40)
        self.forward = variant.compile(self.loss)
        # A rate without the correction of the first steps: it is a number of the graph.
        self.update = variant.compile(functools.partial(self.adamax.update, rate=LEARNING_RATE))
        self.submission = Submission(self.step, variant.graph, device)

    def loss(self, images, eps):
        with self.variant.autocast(self.device):
            elbo = self.vae(images, eps)
        kl_all = torch.stack([kl.sum(dim=(1, 2, 3)) for kl in elbo.kl])
        balanced, _ = balanced_kl(kl_all, self.stage.alphas, KL_COEFF)
        nelbo = (reconstruction_loss(elbo.logits, images) + KL_COEFF * balanced).mean()
        return nelbo + REGULARISER * (self.stage.spectral.loss(POWER_ITERATIONS) + self.stage.norms.loss())

    def step(self):
        for eps in self.eps:
            eps.normal_()
        loss = self.forward(self.images, self.eps)
        gradients = torch.autograd.grad(loss, self.adamax.parameters)
        with torch.no_grad():
            self.update(list(gradients))
        return loss.detach()

    def __call__(self):
        return self.submission()


class AdamClip:
    """Adam with the gradients clipped by their own second moments, the published optimiser of stage 2; the corrections of late steps."""

    def __init__(self, parameters):
        self.parameters = list(parameters)
        self.first = [torch.zeros_like(p) for p in self.parameters]
        self.second = [torch.zeros_like(p) for p in self.parameters]

    @torch.no_grad()
    def update(self, gradients):
        beta1, beta2 = ENERGY_BETAS
        bounds = torch._foreach_mul(torch._foreach_sqrt(self.second), CLIP_SIGMAS)
        torch._foreach_add_(bounds, CLIP_FLOOR)
        gradients = torch._foreach_minimum(gradients, bounds)
        gradients = torch._foreach_maximum(gradients, torch._foreach_neg(bounds))
        torch._foreach_add_(gradients, self.parameters, alpha=ENERGY_DECAY)
        torch._foreach_lerp_(self.first, gradients, 1 - beta1)
        torch._foreach_mul_(self.second, beta2)
        torch._foreach_addcmul_(self.second, gradients, gradients, 1 - beta2)
        roots = torch._foreach_sqrt(self.second)
        torch._foreach_add_(roots, 1e-8)
        torch._foreach_addcdiv_(self.parameters, self.first, roots, -ENERGY_RATE)


class EnergyStep:
    """One update of the energy network: negatives decoded from fresh noise, both batches through it, backward, clipped Adam."""

    def __init__(self, vae, energy, batch, variant, device):
        choose_precision(variant)
        self.variant, self.device = variant, device
        # The decoder alone is folded: the energy network trains.
        self.chain = (FoldedChain if variant.tuned else Chain)(vae, energy)
        self.chain.vae.to(device=device, memory_format=variant.memory)
        self.energy = energy.train().requires_grad_(True).to(device=device, memory_format=variant.memory)
        if variant.precision == "bf16":
            to_float(self.chain.vae.output if variant.tuned else self.chain.vae.image_conditional)
            for sampler in self.chain.vae.samplers if variant.tuned else [s[1] for s in self.chain.vae.dec_sampler]:
                to_float(sampler)
            narrow(self.chain.vae)
            self.energy.linear = ExactLinear(self.energy.linear)
        images = smooth_images(batch, vae.config, torch.Generator().manual_seed(3))
        self.images = images.to(device).contiguous(memory_format=variant.memory)
        self.eps = [e.to(device).contiguous(memory_format=variant.memory) for e in make_eps(vae.config, batch)]
        self.spectral = SpectralNorm(self.energy)
        with torch.no_grad():
            self.energy(self.images)
            self.spectral.loss(40)
        self.adam = AdamClip(self.energy.parameters())
        self.decode = variant.compile(self.negatives)
        self.forward = variant.compile(self.loss)
        self.update = variant.compile(self.adam.update)
        self.submission = Submission(self.step, variant.graph, device)

    def negatives(self, eps):
        with self.variant.autocast(self.device):
            return self.chain.image(self.chain.sample(eps[:-1])[0], eps[-1])[0] / 2 + 0.5

    def loss(self, images, negatives):
        with self.variant.autocast(self.device):
            positive, negative = self.energy(torch.cat([images, negatives])).chunk(2)
        return positive.mean() - negative.mean() + ENERGY_REGULARISER * self.spectral.loss(POWER_ITERATIONS)

    def step(self):
        for eps in self.eps:
            eps.normal_()
        with torch.no_grad():
            negatives = self.decode(self.eps).contiguous(memory_format=self.variant.memory)
        loss = self.forward(self.images, negatives)
        self.update(list(torch.autograd.grad(loss, self.adam.parameters)))
        return loss.detach()

    def __call__(self):
        return self.submission()


def build(kind, vae, energy, batch, count, variant, device):
    """The submission of a kind, and how many steps are in one."""
    if kind == "langevin":
        return Langevin(vae, energy, batch, count, variant, device), count
    if kind == "sample":
        return Sampling(vae, energy, batch, count, variant, device), 1
    if kind == "stage1":
        return VaeStep(vae, batch, variant, device), 1
    return EnergyStep(vae, energy, batch, variant, device), 1


def measure(submission, per_submission, seconds, device):
    """Milliseconds per step of every submission within `seconds`, three at least, each waited for."""
    wait = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    wait()
    times, start = [], time.perf_counter()
    while len(times) < 3 or time.perf_counter() - start < seconds:
        begin = time.perf_counter()
        submission()
        wait()
        times.append(1e3 * (time.perf_counter() - begin) / per_submission)
    return times
