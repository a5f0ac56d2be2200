"""The two measured steps in every variant: plain eager as published, tuned eager, and torch.compile of both.

Calling a step object does one whole step and leaves its state in place. A step owns the networks it is given.
"""

import time

import torch
from safetensors.torch import load_file, save_file

from chain import Chain, FoldedChain, langevin_update
from model import EnergyNet, Nvae, NvaeConfig, load_official
from objective import Adamax, Stage1

MODELS = {
    "toy": (NvaeConfig(num_channels_enc=16, num_latent_scales=2, num_groups_per_scale=2, num_latent_per_group=4), ("cifar32", 16)),
    "medium": (NvaeConfig(num_channels_enc=32, num_latent_scales=1, num_groups_per_scale=5, num_latent_per_group=20), ("cifar32", 32)),
    "cifar10": (NvaeConfig(num_channels_enc=128, num_latent_scales=1, num_groups_per_scale=30, num_latent_per_group=20), ("cifar32", 128)),
}
# Steps of the brief training of a model that is slow to train on a CPU.
SHORT = {"cifar10": 3}
STEP_SIZE = 8e-5
KL_COEFF, REGULARISER = 0.7, 0.1
LEARNING_RATE = 1e-3


def build_networks(model):
    config, energy = MODELS[model]
    return Nvae(config), EnergyNet(*energy)


def smooth_images(batch, config, generator):
    """Random images with large soft shapes, in [0, 1]."""
    coarse = torch.rand(batch, config.image_channels, 5, 5, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=config.resolution, mode="bicubic").clamp(0, 1)


def make_eps(config, batch, generator=None):
    """Noise of every group, then of the image."""
    shapes = [*config.latent_shapes(batch), config.image_shape(batch)]
    return [torch.randn(shape, generator=generator) for shape in shapes]


def train_briefly(model, steps=60, seed=1):
    """Networks after a short training, so that weights, statistics and energies are not those of the start."""
    torch.manual_seed(seed)
    vae, energy = build_networks(model)
    generator = torch.Generator().manual_seed(seed)
    stage, adamax = Stage1(vae.train()), Adamax(vae.parameters(), lr=2e-3)
    for step in range(steps):
        images = smooth_images(16, vae.config, generator)
        loss, _ = stage.loss(images, make_eps(vae.config, 16)[:-1], min(1.0, 0.1 + step / steps), REGULARISER, 40 if step == 0 else 4)
        adamax.step(torch.autograd.grad(loss, adamax.parameters))
    chain = Chain(vae, energy)
    energy.data_init(smooth_images(16, vae.config, generator))
    energy.requires_grad_(True)
    adam = torch.optim.Adam(energy.parameters(), lr=2e-4)
    for _ in range(steps // 3):
        eps = make_eps(vae.config, 16)
        with torch.no_grad():
            negative = chain.image(vae.sample(eps[:-1])[0], eps[-1])[0] / 2 + 0.5
        loss = energy(smooth_images(16, vae.config, generator)).mean() - energy(negative).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    return vae, energy


def save_networks(folder, vae, energy):
    """`vae.safetensors` and `ebm.safetensors` under the published names, as `vaebm export` writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, network in (("vae", vae), ("ebm", energy)):
        state = {key: tensor.detach().contiguous() for key, tensor in network.state_dict().items() if not key.endswith("num_batches_tracked")}
        save_file(state, folder / f"{name}.safetensors")


def load_networks(model, folder):
    """Networks of a model with the weights of a folder of `save_networks` or `vaebm export`."""
    vae, energy = build_networks(model)
    return load_official(vae, load_file(folder / "vae.safetensors")), load_official(energy, load_file(folder / "ebm.safetensors"))


class LangevinStep:
    """One chain step of a batch; the state is `self.eps` = (eps_z..., eps_x)."""

    def __init__(self, vae, energy, batch, folded=False, channels_last=False, compile_options=None):
        config = vae.config
        chain = (FoldedChain if folded else Chain)(vae, energy)
        self.memory = memory = torch.channels_last if channels_last else torch.contiguous_format
        chain.vae.to(memory_format=memory)
        chain.energy.to(memory_format=memory)
        self.eps = [e.contiguous(memory_format=memory) for e in make_eps(config, batch)]
        self.noise = [torch.empty_like(e) for e in self.eps]
        self.gradient = chain.gradient
        self.update = langevin_update
        if compile_options is not None:
            objective = torch.compile(chain.objective, dynamic=False, fullgraph=True, **compile_options)
            chain.objective = objective
            self.update = torch.compile(langevin_update, dynamic=False, fullgraph=True)

    def __call__(self, noise=None):
        """One step; returns the energies before it."""
        if noise is None:
            for buffer in self.noise:
                buffer.normal_()
        gradients, energy = self.gradient(self.eps)
        self.update(self.eps, list(gradients), self.noise if noise is None else noise, STEP_SIZE)
        return energy


class TrainStep:
    """One stage-1 step on a batch of images: ELBO with balanced KL, regularisation, backward, Adamax."""

    def __init__(self, vae, batch, channels_last=False, compile_options=None):
        memory = torch.channels_last if channels_last else torch.contiguous_format
        self.vae = vae.train().requires_grad_(True).to(memory_format=memory)
        self.images = smooth_images(batch, vae.config, torch.Generator().manual_seed(3)).contiguous(memory_format=memory)
        self.eps = [e.contiguous(memory_format=memory) for e in make_eps(vae.config, batch)[:-1]]
        self.stage = Stage1(self.vae)
        self.adamax = Adamax(self.vae.parameters(), lr=LEARNING_RATE)
        self.loss = lambda x, eps: self.stage.loss(x, eps, KL_COEFF, REGULARISER, 4)[0]
        with torch.no_grad():
            self.stage.loss(self.images, self.eps, KL_COEFF, REGULARISER, 40)
        if compile_options is not None:
            self.loss = torch.compile(self.loss, dynamic=False, **compile_options)

    def __call__(self):
        for eps in self.eps:
            eps.normal_()
        loss = self.loss(self.images, self.eps)
        self.adamax.step(list(torch.autograd.grad(loss, self.adamax.parameters)))
        return loss.detach()


# Variant name to keyword arguments of the step.
LANGEVIN = {
    "eager": {},
    "eager_tuned": dict(folded=True, channels_last=True),
    "compiled": dict(compile_options={}),
    "compiled_tuned": dict(folded=True, channels_last=True, compile_options={}),
    "max_autotune": dict(folded=True, channels_last=True, compile_options={"mode": "max-autotune-no-cudagraphs"}),
}
STAGE1 = {
    "eager": {},
    "eager_tuned": dict(channels_last=True),
    "compiled": dict(compile_options={}),
    "compiled_tuned": dict(channels_last=True, compile_options={}),
    "max_autotune": dict(channels_last=True, compile_options={"mode": "max-autotune-no-cudagraphs"}),
}


def measure(step, seconds):
    """Milliseconds of every step within a slot of `seconds`, at least one."""
    times, start = [], time.perf_counter()
    while not times or time.perf_counter() - start < seconds:
        begin = time.perf_counter()
        step()
        times.append(1e3 * (time.perf_counter() - begin))
    return times
