"""The Langevin step in (eps_z, eps_x): as published, and folded for speed.

U = mean over the batch of E(x) - log p(z) - log p(x|z), with the log-densities of z and x (not of the noise). The step multiplies the
gradient by the batch size, so the code differentiates the sum. No gradient of a weight is ever asked for.
"""

import torch
import torch.nn.functional as F
from torch import nn

from model import BilinearUp, DecCombiner, Normal, chain_distribution, decoder_distribution, soft_clamp


class Chain:
    """Decoder, energy network and target of the chain, from networks in evaluation mode."""

    def __init__(self, vae, energy):
        self.vae, self.energy = vae.eval().requires_grad_(False), energy.eval().requires_grad_(False)
        self.sample = vae.sample

    def image(self, logits, eps_x):
        """Decoder sample in [-1, 1] and its log-density [B] with log sigma at least -2."""
        y = decoder_distribution(logits).sample(eps_x).clamp(-1, 1)
        return y, chain_distribution(logits).log_prob(y).sum(dim=(1, 2, 3))

    def parts(self, eps_z, eps_x):
        """Energy, log p(z), log p(x|z), each [B], then image and decoder output."""
        logits, log_pz = self.sample(eps_z)
        y, log_px = self.image(logits, eps_x)
        x = y / 2 + 0.5
        return self.energy(x), log_pz, log_px, x, logits

    def objective(self, eps_z, eps_x):
        """Sum over the batch of U, and the energies [B]."""
        energy, log_pz, log_px, _, _ = self.parts(eps_z, eps_x)
        return (energy - log_pz - log_px).sum(), energy

    def gradient(self, eps):
        """Gradient of the objective by `eps` = (eps_z..., eps_x), and the energies."""
        eps = [e.detach().requires_grad_() for e in eps]
        total, energy = self.objective(eps[:-1], eps[-1])
        return torch.autograd.grad(total, eps), energy.detach()


def langevin_update(eps, gradients, noise, step_size):
    """eps - step_size/2 * gradient + sqrt(step_size) * noise, in place."""
    torch._foreach_add_(eps, gradients, alpha=-0.5 * step_size)
    torch._foreach_add_(eps, noise, alpha=step_size**0.5)


class FoldedSqueezeExcite(nn.Module):
    """Squeeze-excite with the branch's factor 0.1 moved to its end."""

    def __init__(self, se):
        super().__init__()
        self.first, self.second = se.se[0], se.se[2]

    def forward(self, x, skip):
        gate = torch.sigmoid(self.second(F.relu(self.first(x.mean(dim=(2, 3))))))
        return torch.addcmul(skip, x, gate[:, :, None, None], value=0.1)


def affine_of(norm):
    """Scale and offset of a batch norm in evaluation mode."""
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return scale, norm.bias - norm.running_mean * scale


def plain_conv(conv, weight, bias):
    folded = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, groups=conv.groups,
                       bias=bias is not None, dtype=weight.dtype)
    folded.weight.copy_(weight)
    if bias is not None:
        folded.bias.copy_(bias)
    return folded


def folded_conv(conv, before=None, after=None):
    """Plain convolution with effective weights; batch norms around it folded in (one before: 1x1 kernels only)."""
    weight = conv.effective_weight()
    bias = conv.bias
    if before is not None:
        scale, offset = affine_of(before)
        bias = weight[:, :, 0, 0] @ offset
        weight = weight * scale.view(1, -1, 1, 1)
    if after is not None:
        scale, offset = affine_of(after)
        bias = offset if bias is None else bias * scale + offset
        weight = weight * scale.view(-1, 1, 1, 1)
    return plain_conv(conv, weight, bias)


class FoldedCell(nn.Module):
    """Decoder cell as three convolutions. Doubling the image commutes with pointwise operations, so the skip's 1x1 convolution, the
    expansion and its swish run before it, on a quarter of the pixels."""

    def __init__(self, cell):
        super().__init__()
        ops = list(cell._ops[0].conv)
        self.up = isinstance(ops[0], nn.UpsamplingNearest2d)
        before, expand, depthwise, project, after = ops[1:] if self.up else ops
        self.expand = folded_conv(expand.conv[0], before=before.bn, after=expand.conv[1])
        self.depthwise = folded_conv(depthwise.conv[0], after=depthwise.conv[1])
        self.project = folded_conv(project, after=after.bn)
        self.se = FoldedSqueezeExcite(cell.se)
        if self.up:
            self.skip = folded_conv(cell.skip[1])
            self.bilinear = BilinearUp()

    def forward(self, x):
        y = F.silu(self.expand(x), inplace=False)
        if self.up:
            x = self.bilinear(self.skip(x))
            y = F.interpolate(y, scale_factor=2, mode="nearest")
        y = self.project(F.silu(self.depthwise(y)))
        return self.se(y, x)


class FirstCombiner(nn.Module):
    """Combiner of the first group: its features are the learned constant, so their part is computed once."""

    def __init__(self, combiner, features):
        super().__init__()
        weight = combiner.conv.effective_weight()
        width = features.shape[0]
        part = F.conv2d(features[None], weight[:, :width], combiner.conv.bias)
        self.register_buffer("features", part)
        self.register_buffer("weight", weight[:, width:].contiguous())

    def forward(self, z):
        return F.conv2d(z, self.weight) + self.features


class FoldedCombiner(nn.Module):
    def __init__(self, combiner):
        super().__init__()
        self.conv = folded_conv(combiner.conv)

    def forward(self, features, z):
        return self.conv(torch.cat([features, z], dim=1))


class FoldedDecoder(nn.Module):
    """Decoder of an NVAE in evaluation mode: effective weights formed once, batch norms folded into convolutions."""

    @torch.no_grad()
    def __init__(self, vae):
        super().__init__()
        self.tower = nn.ModuleList()
        for cell in vae.dec_tower:
            if not isinstance(cell, DecCombiner):
                self.tower.append(FoldedCell(cell))
            elif len(self.tower) == 0:
                self.tower.append(FirstCombiner(cell, vae.prior_ftr0))
            else:
                self.tower.append(FoldedCombiner(cell))
        self.samplers = nn.ModuleList(folded_conv(sampler[1]) for sampler in vae.dec_sampler)
        self.post = nn.ModuleList(FoldedCell(cell) for cell in vae.post_process)
        self.output = folded_conv(vae.image_conditional[1])

    def forward(self, eps):
        first = Normal.of(*[torch.zeros((), dtype=eps[0].dtype)] * 2)
        z = eps[0] * first.sigma
        log_p = [first.log_prob(z).sum(dim=(1, 2, 3))]
        features = self.tower[0](z)
        group = 0
        for cell in self.tower[1:]:
            if isinstance(cell, FoldedCombiner):
                group += 1
                p = Normal.of(*self.samplers[group - 1](F.elu(features)).chunk(2, dim=1))
                z = p.sample(eps[group])
                log_p.append(p.log_prob(z).sum(dim=(1, 2, 3)))
                features = cell(features, z)
            else:
                features = cell(features)
        for cell in self.post:
            features = cell(features)
        return self.output(F.elu(features)), sum(log_p)


class FoldedEnergyBlock(nn.Module):
    """Energy block on swished inputs. Lip-swish's 1/1.1 sits in the next weights; pooling commutes with the skip's 1x1 convolution."""

    def __init__(self, block):
        super().__init__()
        self.conv1 = folded_conv(block.conv1)
        self.conv2 = folded_conv(block.conv2)
        self.conv2.weight.div_(1.1)
        self.skip = None if isinstance(block.skip, nn.Identity) else folded_conv(block.skip[0])
        self.down = block.down
        self.conv1.weight.div_(1.1)
        if self.skip is not None:
            self.skip.weight.div_(1.1)

    def forward(self, s):
        y = self.conv2(F.silu(self.conv1(s)))
        if self.skip is None:
            y = y + s / 1.1
        elif self.down:
            y = F.avg_pool2d(y, 2) + self.skip(F.avg_pool2d(s, 2))
        else:
            y = y + self.skip(s)
        return F.silu(y)


class FoldedEnergy(nn.Module):
    """Energy network with effective weights formed once."""

    @torch.no_grad()
    def __init__(self, energy):
        super().__init__()
        self.conv1 = folded_conv(energy.conv1)
        self.blocks = nn.ModuleList(FoldedEnergyBlock(block) for block in energy.blocks)
        self.linear = energy.linear

    def forward(self, x):
        s = F.silu(self.conv1(x))
        for block in self.blocks:
            s = block(s)
        return self.linear(s.sum(dim=(2, 3)) / 1.1).squeeze(1)


class FoldedChain(Chain):
    """The same step from folded networks; the two distributions of the decoder output share their parameters."""

    def __init__(self, vae, energy):
        self.vae = FoldedDecoder(vae.eval()).eval().requires_grad_(False)
        self.energy = FoldedEnergy(energy).eval().requires_grad_(False)
        self.sample = self.vae

    def image(self, logits, eps_x):
        mu, log_sigma = (soft_clamp(part) for part in logits.chunk(2, dim=1))
        y = (eps_x * (torch.exp(log_sigma) + 0.01) + mu).clamp(-1, 1)
        scorer = Normal(mu, torch.exp(log_sigma.clamp(min=-2)) + 0.01)
        return y, scorer.log_prob(y).sum(dim=(1, 2, 3))
