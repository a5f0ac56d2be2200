"""Stage-1 objective and optimiser: balanced KL, spectral and batch-norm regularisation, Adamax without bias correction of its maximum."""

from collections import defaultdict

import torch
from torch import nn
import torch.nn.functional as F

from model import Conv2d, decoder_distribution


def reconstruction_loss(logits, x):
    """-log p(x|z), [B]; a density of 2x - 1."""
    return -decoder_distribution(logits).log_prob(2 * x - 1).sum(dim=(1, 2, 3))


def kl_alphas(config):
    """Weight of every group in KL balancing, top-down; square rule."""
    alphas = []
    for scale, groups in enumerate(reversed(config.groups())):
        alphas += [4.0**scale / groups] * groups
    smallest = min(alphas)
    return [alpha / smallest for alpha in alphas]


def balanced_kl(kl_all, alphas, kl_coeff):
    """Sum over groups [B] of kl_all [G, B], balanced while kl_coeff < 1; also the coefficients."""
    if kl_coeff >= 1:
        return kl_all.sum(dim=0), torch.ones_like(alphas)
    with torch.no_grad():
        weight = kl_all.abs().mean(dim=1) + 0.01
        gamma = weight * weight.sum() / alphas
        gamma = gamma / gamma.mean()
    return (gamma[:, None] * kl_all).sum(dim=0), gamma


class SpectralNorm:
    """Sum of the largest singular values of all convolutions, by power iteration with persistent vectors.

    Convolutions of equal matrix shape are stacked and iterated together. The weights are those of the last forward.
    """

    def __init__(self, module, start=None):
        groups = defaultdict(list)
        for name, conv in module.named_modules():
            if isinstance(conv, Conv2d):
                groups[conv.weight.shape[0], conv.weight[0].numel()].append((name, conv))
        self.groups = list(groups.values())
        self.u = []
        for group in self.groups:
            weight = group[0][1].weight
            rows = [start[name].to(weight) if start else torch.randn_like(weight[:, 0, 0, 0]) for name, _ in group]
            self.u.append(self.normalize(torch.stack(rows).unsqueeze(2)))

    @staticmethod
    def normalize(x):
        return F.normalize(x, dim=1, eps=1e-3)

    def loss(self, iterations):
        total = 0
        for index, group in enumerate(self.groups):
            weights = torch.stack([conv.last_weight().flatten(1) for _, conv in group])
            with torch.no_grad():
                u = self.u[index]
                for _ in range(iterations):
                    v = self.normalize(torch.bmm(weights.transpose(1, 2), u))
                    u = self.normalize(torch.bmm(weights, v))
                self.u[index].copy_(u)
            total = total + (u * torch.bmm(weights, v)).sum()
        return total

    def vectors(self):
        """Name of a convolution to its left vector."""
        return {name: self.u[i][row, :, 0] for i, group in enumerate(self.groups) for row, (name, _) in enumerate(group)}


class BatchNormPenalty:
    """Sum over batch norms of max |gamma|, those of equal width together."""

    def __init__(self, module):
        groups = defaultdict(list)
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm2d):
                groups[norm.num_features].append(norm)
        self.groups = list(groups.values())

    def loss(self):
        return sum(torch.stack([norm.weight for norm in group]).abs().amax(dim=1).sum() for group in self.groups)


class Adamax:
    """Adamax with L2 weight decay and eps inside the maximum; one fused pass over all parameters per operation."""

    def __init__(self, parameters, lr, weight_decay=3e-4, betas=(0.9, 0.999), eps=1e-3):
        self.parameters = list(parameters)
        self.lr, self.weight_decay, self.betas, self.eps = lr, weight_decay, betas, eps
        self.average = [torch.zeros_like(p) for p in self.parameters]
        self.maximum = [torch.zeros_like(p) for p in self.parameters]
        self.step_count = 0

    @torch.no_grad()
    def step(self, gradients):
        self.step_count += 1
        self.update(gradients, self.lr / (1 - self.betas[0] ** self.step_count))

    def update(self, gradients, rate):
        beta1, beta2 = self.betas
        gradients = torch._foreach_add(gradients, self.parameters, alpha=self.weight_decay)
        torch._foreach_lerp_(self.average, gradients, 1 - beta1)
        torch._foreach_abs_(gradients)
        torch._foreach_add_(gradients, self.eps)
        torch._foreach_mul_(self.maximum, beta2)
        torch._foreach_maximum_(self.maximum, gradients)
        torch._foreach_addcdiv_(self.parameters, self.average, self.maximum, -rate)


class Stage1:
    """The loss of one training step, and the state it carries along."""

    def __init__(self, vae, spectral_start=None):
        self.vae = vae
        self.spectral = SpectralNorm(vae, spectral_start)
        self.norms = BatchNormPenalty(vae)
        self.alphas = torch.tensor(kl_alphas(vae.config), dtype=vae.prior_ftr0.dtype)

    def loss(self, x, eps, kl_coeff, regulariser, iterations):
        """Loss and its parts by name."""
        elbo = self.vae(x, eps)
        kl_all = torch.stack([kl.sum(dim=(1, 2, 3)) for kl in elbo.kl])
        balanced, gamma = balanced_kl(kl_all, self.alphas, kl_coeff)
        recon = reconstruction_loss(elbo.logits, x)
        nelbo = (recon + kl_coeff * balanced).mean()
        norm_loss, bn_loss = self.spectral.loss(iterations), self.norms.loss()
        loss = nelbo + regulariser * (norm_loss + bn_loss)
        return loss, dict(logits=elbo.logits, kl_all=kl_all, kl_coeffs=gamma, balanced_kl=balanced, recon_loss=recon,
                          loss_nelbo=nelbo, norm_loss=norm_loss, bn_loss=bn_loss, kl=elbo.kl)
