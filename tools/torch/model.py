"""NVAE (inverted-residual family, Normal decoder) and the energy networks of VAEBM, in plain PyTorch.

Written from the papers (arXiv 2007.03898, 2010.00654) and the project's description of the model. Parameter names are the published
ones, so that one safetensors file serves this module and `vaebm`. Tensors are NCHW by shape; channels_last is a choice of the caller.

Everything is computed as published: weight norm on every forward, batch norm as its own module. `chain.py` holds the form that
is folded for speed.
"""

from dataclasses import dataclass
import math

import torch
import torch.nn.functional as F
from torch import nn


def soft_clamp(x):
    """Smooth bound of a distribution's parameters to [-5, 5]."""
    return 5 * torch.tanh(x / 5)


class Conv2d(nn.Conv2d):
    """Convolution whose weight is used as it is; `last_weight` is what the spectral term looks at."""

    def effective_weight(self):
        return self.weight

    def last_weight(self):
        return self.weight


class WnConv2d(Conv2d):
    """Weight-normed convolution: w * exp(log_weight_norm) / (|w| + 1e-5), one norm per output filter."""

    def __init__(self, cin, cout, kernel, bias=True, **kwargs):
        super().__init__(cin, cout, kernel, bias=bias, padding=kernel // 2, **kwargs)
        with torch.no_grad():
            self.log_weight_norm = nn.Parameter(torch.log(self.filter_norm() + 0.01))

    def filter_norm(self):
        return self.weight.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()

    def effective_weight(self):
        return self.weight * (torch.exp(self.log_weight_norm) / (self.filter_norm() + 1e-5))

    def forward(self, x):
        self.effective = self.effective_weight()
        return self._conv_forward(x, self.effective, self.bias)

    def last_weight(self):
        return self.effective

    @torch.no_grad()
    def data_init(self, x):
        """Sets bias and log_weight_norm from a batch, as the energy networks do on their first forward."""
        y = self._conv_forward(x, self.weight / (self.filter_norm() + 1e-5), None)
        scale = 5 * y.std(dim=(0, 2, 3)) + 1e-5
        self.log_weight_norm.copy_(-torch.log(scale).view(-1, 1, 1, 1))
        if self.bias is not None:
            self.bias.copy_(-y.mean(dim=(0, 2, 3)) / scale)


def batch_norm(channels):
    return nn.BatchNorm2d(channels, eps=1e-5, momentum=0.05)


class BnSwish(nn.BatchNorm2d):
    def __init__(self, channels):
        super().__init__(channels, eps=1e-5, momentum=0.05)

    def forward(self, x):
        return F.silu(super().forward(x))


class SqueezeExcite(nn.Module):
    def __init__(self, channels):
        super().__init__()
        hidden = max(channels // 16, 4)
        self.se = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels), nn.Sigmoid())

    def forward(self, x):
        return x * self.se(x.mean(dim=(2, 3)))[:, :, None, None]


class FactorizedReduce(nn.Module):
    """Skip of a down cell: swish, then four 1x1 stride-2 convolutions on shifted inputs."""

    OFFSETS = ((0, 0), (1, 1), (0, 1), (1, 0))

    def __init__(self, cin, cout):
        super().__init__()
        quarter = cout // 4
        for i in range(4):
            width = quarter if i < 3 else cout - 3 * quarter
            setattr(self, f"conv_{i + 1}", WnConv2d(cin, width, 1, stride=2))

    def forward(self, x):
        x = F.silu(x)
        convs = (self.conv_1, self.conv_2, self.conv_3, self.conv_4)
        return torch.cat([conv(x[:, :, dy:, dx:]) for conv, (dy, dx) in zip(convs, self.OFFSETS)], dim=1)


class BilinearUp(nn.Module):
    def forward(self, x):
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


class BnSwishConv(nn.Module):
    """`res_bnswish`: batch norm, swish, 3x3 convolution."""

    def __init__(self, cin, cout, stride):
        super().__init__()
        self.bn_act = BnSwish(cin)
        self.conv_0 = WnConv2d(cin, cout, 3, stride=stride)

    def forward(self, x):
        return self.conv_0(self.bn_act(x))


class PlainBn(nn.Module):
    """Batch norm under the name `bn`, where no activation follows."""

    def __init__(self, channels):
        super().__init__()
        self.bn = batch_norm(channels)

    def forward(self, x):
        return self.bn(x)


class ConvBnSwish(nn.Module):
    def __init__(self, cin, cout, kernel, groups=1):
        super().__init__()
        conv = Conv2d(cin, cout, kernel, padding=kernel // 2, groups=groups, bias=False)
        self.conv = nn.Sequential(conv, BnSwish(cout))

    def forward(self, x):
        return self.conv(x)


class MbConv(nn.Module):
    """`mconv_e{expand}k5g0`: [nearest x2,] BN, 1x1 expand, BN + swish, depthwise 5x5, BN + swish, 1x1 project, BN."""

    def __init__(self, cin, cout, up, expand):
        super().__init__()
        hidden = round(cin * expand)
        self.conv = nn.Sequential(
            *([nn.UpsamplingNearest2d(scale_factor=2)] if up else []),
            PlainBn(cin),
            ConvBnSwish(cin, hidden, 1),
            ConvBnSwish(hidden, hidden, 5, groups=hidden),
            Conv2d(hidden, cout, 1, bias=False),
            PlainBn(cout),
        )

    def forward(self, x):
        return self.conv(x)


class Cell(nn.Module):
    """Residual cell: skip + 0.1 * squeeze-excite(ops(x))."""

    def __init__(self, skip, ops, cout):
        super().__init__()
        self.skip = skip
        self._ops = nn.ModuleList(ops)
        self.se = SqueezeExcite(cout)

    def forward(self, x):
        skip = self.skip(x)
        for op in self._ops:
            x = op(x)
        return skip + 0.1 * self.se(x)


def encoder_cell(cin, cout, down=False):
    skip = FactorizedReduce(cin, cout) if down else nn.Identity()
    return Cell(skip, [BnSwishConv(cin, cout, 2 if down else 1), BnSwishConv(cout, cout, 1)], cout)


def decoder_cell(cin, cout, expand, up=False):
    skip = nn.Sequential(BilinearUp(), WnConv2d(cin, cout, 1, bias=False)) if up else nn.Identity()
    return Cell(skip, [MbConv(cin, cout, up, expand)], cout)


class EncCombiner(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = WnConv2d(channels, channels, 1)

    def forward(self, enc, dec):
        return enc + self.conv(dec)


class DecCombiner(nn.Module):
    def __init__(self, channels, latents):
        super().__init__()
        self.conv = WnConv2d(channels + latents, channels, 1)

    def forward(self, features, z):
        return self.conv(torch.cat([features, z], dim=1))


@dataclass(frozen=True)
class Normal:
    """Diagonal normal of raw parameters; both are softly clamped and 0.01 is added to sigma."""

    mu: torch.Tensor
    sigma: torch.Tensor

    @staticmethod
    def of(mu, log_sigma):
        return Normal(soft_clamp(mu), torch.exp(soft_clamp(log_sigma)) + 0.01)

    def sample(self, eps):
        return eps * self.sigma + self.mu

    def log_prob(self, z):
        return -0.5 * ((z - self.mu) / self.sigma).square() - 0.5 * math.log(2 * math.pi) - torch.log(self.sigma)

    def kl(self, other):
        mean = (self.mu - other.mu) / other.sigma
        ratio = self.sigma / other.sigma
        return 0.5 * (mean.square() + ratio.square()) - 0.5 - torch.log(ratio)


def decoder_distribution(logits):
    """Distribution of 2x - 1 that stage 1 scores and both stages sample from."""
    mu, log_sigma = logits.chunk(2, dim=1)
    return Normal.of(mu, log_sigma)


def chain_distribution(logits):
    """Distribution that scores x in the chain: log sigma is at least -2."""
    mu, log_sigma = logits.chunk(2, dim=1)
    return Normal(soft_clamp(mu), torch.exp(soft_clamp(log_sigma).clamp(min=-2)) + 0.01)


@dataclass(frozen=True)
class NvaeConfig:
    """Architecture keys under their published names."""

    num_channels_enc: int
    num_latent_scales: int
    num_groups_per_scale: int
    num_latent_per_group: int
    resolution: int = 32
    image_channels: int = 3
    num_preprocess_blocks: int = 1
    num_preprocess_cells: int = 2
    num_cell_per_cond_enc: int = 2
    num_postprocess_blocks: int = 1
    num_postprocess_cells: int = 2
    num_cell_per_cond_dec: int = 2
    ada_groups: bool = False
    min_groups_per_scale: int = 1

    def groups(self):
        """Groups of every scale, highest resolution first."""
        groups = [self.num_groups_per_scale]
        while len(groups) < self.num_latent_scales:
            groups.append(max(self.min_groups_per_scale, groups[-1] // 2) if self.ada_groups else groups[-1])
        return groups

    def latent_shapes(self, batch):
        """Shape of every group's latent, top of the hierarchy first."""
        side = self.resolution >> (self.num_preprocess_blocks + self.num_latent_scales - 1)
        shapes = []
        for scale, count in enumerate(reversed(self.groups())):
            shapes += [(batch, self.num_latent_per_group, side << scale, side << scale)] * count
        return shapes

    def image_shape(self, batch):
        return (batch, self.image_channels, self.resolution, self.resolution)


@dataclass(frozen=True)
class Elbo:
    """One pass of the VAE: decoder output, and one entry per group of the KL and (if asked for) log-densities of z."""

    logits: torch.Tensor
    kl: list
    log_q: list
    log_p: list


class Nvae(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        groups = config.groups()
        latents = config.num_latent_per_group
        if sum(groups) < 2:
            raise ValueError("one latent group in all (the vanilla VAE) is not covered here")
        width = config.num_channels_enc

        self.stem = WnConv2d(config.image_channels, width, 3)
        self.pre_process = nn.ModuleList()
        for _ in range(config.num_preprocess_blocks):
            self.pre_process.extend(encoder_cell(width, width) for _ in range(config.num_preprocess_cells - 1))
            self.pre_process.append(encoder_cell(width, 2 * width, down=True))
            width *= 2

        self.enc_tower = nn.ModuleList()
        last = len(groups) - 1
        for scale, count in enumerate(groups):
            for group in range(count):
                self.enc_tower.extend(encoder_cell(width, width) for _ in range(config.num_cell_per_cond_enc))
                if not (scale == last and group == count - 1):
                    self.enc_tower.append(EncCombiner(width))
            if scale < last:
                self.enc_tower.append(encoder_cell(width, 2 * width, down=True))
                width *= 2
        self.enc0 = nn.Sequential(nn.ELU(), WnConv2d(width, width, 1), nn.ELU())

        side = config.latent_shapes(1)[0][-1]
        self.prior_ftr0 = nn.Parameter(torch.rand(width, side, side))
        self.enc_sampler, self.dec_sampler = nn.ModuleList(), nn.ModuleList()
        self.dec_tower = nn.ModuleList()
        for scale, count in enumerate(reversed(groups)):
            for group in range(count):
                self.enc_sampler.append(WnConv2d(width, 2 * latents, 3))
                if not (scale == 0 and group == 0):
                    self.dec_sampler.append(nn.Sequential(nn.ELU(), WnConv2d(width, 2 * latents, 1)))
                    self.dec_tower.extend(decoder_cell(width, width, 6) for _ in range(config.num_cell_per_cond_dec))
                self.dec_tower.append(DecCombiner(width, latents))
            if scale < last:
                self.dec_tower.append(decoder_cell(width, width // 2, 6, up=True))
                width //= 2

        self.post_process = nn.ModuleList()
        for _ in range(config.num_postprocess_blocks):
            self.post_process.append(decoder_cell(width, width // 2, 3, up=True))
            width //= 2
            self.post_process.extend(decoder_cell(width, width, 3) for _ in range(config.num_postprocess_cells - 1))
        self.image_conditional = nn.Sequential(nn.ELU(), WnConv2d(width, 2 * config.image_channels, 3))

    def encode(self, x):
        """Top feature, and the stored (combiner, feature) pairs in top-down order."""
        features = self.stem(2 * x - 1)
        for cell in self.pre_process:
            features = cell(features)
        stored = []
        for cell in self.enc_tower:
            if isinstance(cell, EncCombiner):
                stored.append((cell, features))
            else:
                features = cell(features)
        return self.enc0(features), stored[::-1]

    def standard(self, eps):
        """Prior of the first group: N(0, 1.01^2)."""
        zero = torch.zeros_like(eps)
        return Normal.of(zero, zero)

    def walk(self, batch, latent):
        """Decoder tower and output convolutions; `latent(i, features)` gives the latent of group i."""
        features = self.prior_ftr0.expand(batch, -1, -1, -1)
        group = 0
        for cell in self.dec_tower:
            if isinstance(cell, DecCombiner):
                features = cell(features, latent(group, features))
                group += 1
            else:
                features = cell(features)
        for cell in self.post_process:
            features = cell(features)
        return self.image_conditional(features)

    def prior(self, group, features):
        """Raw parameters of the prior of a group other than the first."""
        return self.dec_sampler[group - 1](features).chunk(2, dim=1)

    def forward(self, x, eps, log_densities=False):
        """Reconstruction from posterior samples with the given noise, one tensor per group."""
        top, stored = self.encode(x)
        kl, log_q, log_p = [], [], []

        def latent(group, features):
            if group == 0:
                mu, log_sigma = self.enc_sampler[0](top).chunk(2, dim=1)
                p = self.standard(eps[0])
            else:
                mu_p, log_sigma_p = self.prior(group, features)
                combiner, feature = stored[group - 1]
                mu, log_sigma = self.enc_sampler[group](combiner(feature, features)).chunk(2, dim=1)
                mu, log_sigma = mu + mu_p, log_sigma + log_sigma_p
                p = Normal.of(mu_p, log_sigma_p)
            q = Normal.of(mu, log_sigma)
            z = q.sample(eps[group])
            kl.append(q.kl(p))
            if log_densities:
                log_q.append(q.log_prob(z))
                log_p.append(p.log_prob(z))
            return z

        return Elbo(self.walk(x.shape[0], latent), kl, log_q, log_p)

    def sample(self, eps):
        """Decoder output and log p(z) [B] for noise of every group, at temperature 1."""
        log_p = []

        def latent(group, features):
            p = self.standard(eps[0]) if group == 0 else Normal.of(*self.prior(group, features))
            z = p.sample(eps[group])
            log_p.append(p.log_prob(z).sum(dim=(1, 2, 3)))
            return z

        logits = self.walk(eps[0].shape[0], latent)
        return logits, sum(log_p)


def lip_swish(x):
    return F.silu(x) / 1.1


class EnergyBlock(nn.Module):
    def __init__(self, cin, cout, down):
        super().__init__()
        self.conv1 = WnConv2d(cin, cout, 3)
        self.conv2 = WnConv2d(cout, cout, 3)
        projected = cin != cout or down
        self.skip = nn.Sequential(WnConv2d(cin, cout, 1, bias=False)) if projected else nn.Identity()
        self.down = down

    def forward(self, x):
        y = self.conv2(lip_swish(self.conv1(x))) + self.skip(x)
        return lip_swish(F.avg_pool2d(y, 2) if self.down else y)


# Width of every block in units of n; a minus sign marks a block that halves its input.
ENERGY_BLOCKS = {
    "cifar32": (-1, 1, -2, 2, -2, 2),
    "celeba64": (-1, 1, -2, 2, -2, 4, -4, 4),
    "lsun64": (-1, 1, -2, 2, 2, -2, 4, 4, -4, 4),
    "mnist": (-1, 1, -2, 2),
    "celeba256": (-1, 1, -2, 2, -2, 2, -4, 4, -4, 4, -8, 8),
}


class EnergyNet(nn.Module):
    """Energy of images in [0, 1]: [B, C, H, W] to [B]."""

    def __init__(self, network, n, image_channels=3):
        super().__init__()
        self.conv1 = WnConv2d(image_channels, n, 3)
        self.blocks = nn.ModuleList()
        width = n
        for block in ENERGY_BLOCKS[network]:
            self.blocks.append(EnergyBlock(width, abs(block) * n, down=block < 0))
            width = abs(block) * n
        self.linear = nn.Linear(width, 1)

    def forward(self, x):
        x = lip_swish(self.conv1(x))
        for block in self.blocks:
            x = block(x)
        return self.linear(x.sum(dim=(2, 3))).squeeze(1)

    @torch.no_grad()
    def data_init(self, x):
        """First forward: every convolution sets itself up from what it sees, in order of execution."""
        hooks = [m.register_forward_pre_hook(lambda conv, args: conv.data_init(args[0]))
                 for m in self.modules() if isinstance(m, WnConv2d)]
        self(x)
        for hook in hooks:
            hook.remove()


def load_official(module, tensors, prefix=""):
    """Loads a state dict under the published names; every parameter and running statistic must be there, and nothing else."""
    state = {name[len(prefix):]: tensor for name, tensor in tensors.items()
             if name.startswith(prefix) and not name.endswith(".weight_normalized")}
    missing, unexpected = module.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ValueError(f"weights do not fit the network: missing {missing[:3]}, unexpected {unexpected[:3]}")
    return module
