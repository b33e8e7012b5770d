"""Two networks of a size for a GPU: a ResNet-50 and GPT-2 with 124 million parameters, from their configurations.

Nothing is downloaded: the data are random, and a few updates take the networks off their initial point.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from workloads import Workload

__all__ = ["LARGE", "gpt2", "resnet"]

UPDATES = 20


class _Logits(nn.Module):
    """A model of transformers that returns its scores only, classes in dimension 1."""

    def __init__(self, inner: nn.Module, *, sequence: bool) -> None:
        super().__init__()
        self.inner, self.sequence = inner, sequence

    def forward(self, inputs: Tensor) -> Tensor:
        scores = self.inner(inputs).logits
        return scores.transpose(1, 2) if self.sequence else scores


def resnet(device: torch.device) -> Workload:
    """ResNet-50, 25.6 million parameters, on 128 random images of 224 by 224 in batches of 32."""
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    model = ResNetForImageClassification(cast("Any", ResNetConfig)(num_labels=1000))
    draw = torch.Generator().manual_seed(1)
    inputs = torch.randn(128, 3, 224, 224, generator=draw)
    targets = torch.randint(1000, (128,), generator=draw)
    return _workload("ResNet-50", _Logits(model, sequence=False), inputs, targets, 32, device)


def gpt2(device: torch.device) -> Workload:
    """GPT-2 with 124 million parameters on 16 random sequences of 256 tokens in batches of 4."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    # Eager attention: the others have no second derivative, which the peers need.
    config = cast("Any", GPT2Config)(attn_implementation="eager", use_cache=False)
    model = GPT2LMHeadModel(config)
    tokens = torch.randint(50257, (16, 257), generator=torch.Generator().manual_seed(1))
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    return _workload("GPT-2 124M", _Logits(model, sequence=True), inputs, targets, 4, device)


LARGE: dict[str, Callable[[torch.device], Workload]] = {"resnet": resnet, "gpt2": gpt2}


def _workload(
    name: str, model: nn.Module, inputs: Tensor, targets: Tensor, batch: int, device: torch.device
) -> Workload:
    model = model.to(device).train()
    pairs = zip(inputs.to(device).split(batch), targets.to(device).split(batch), strict=True)
    batches = list(pairs)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for update in range(UPDATES):
        x, y = batches[update % len(batches)]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    model.eval()
    return Workload(name, model, model, batches)
