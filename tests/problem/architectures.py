"""Every kind of model that products are promised for: the small ones of ``cases.py``, and language and vision models.

Each row builds a problem and an independent reference: a twin in float64 that computes the same in the plainest way,
differentiated twice by torch's own double backward.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from problem.cases import ALL, CASES, NOT_FORWARD, NOT_LINEARIZED, build, hash_of, reference
from unstick import Problem


@dataclass(frozen=True)
class Architecture:
    """``products`` gives H V of the reference for the columns of V, in float64."""

    name: str
    problem: Problem
    products: Callable[[Tensor], Tensor]
    modes: tuple  # those that work; all others are refused


def architecture(name):
    """A fresh one by name; the same numbers every time."""
    if name in MODELS:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(hash_of(name))
            make, modes = MODELS[name]
            return Architecture(name, *make(), modes)
    case = build(name)
    problem = Problem(case.model, case.data, case.loss, mode=case.mode)
    return Architecture(name, problem, lambda V: reference(case).hessian() @ V, case.modes)


def names():
    return [*CASES, *MODELS]


def modes_of(name):
    return MODELS[name][1] if name in MODELS else build(name).modes


def language_model(**options):
    """A GPT-2 of 1,040 parameters; the matrices of its first and its last layer are one."""
    from transformers import GPT2Config, GPT2LMHeadModel  # takes seconds, so only where it is used

    shape = {"vocab_size": 11, "n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 2}
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(**shape, **ends, **dropout, **options)).eval()


def vision_model(**options):
    from transformers import ViTConfig, ViTForImageClassification

    shape = {"image_size": 8, "patch_size": 4, "hidden_size": 8, "intermediate_size": 12}
    depth = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_labels": 3}
    return ViTForImageClassification(ViTConfig(**shape, **depth, **options)).eval()


def sentences():
    """Two batches of other sizes and lengths, with padding."""
    batches = []
    for count, length, padding in ((3, 6, 2), (2, 8, 3)):
        words = torch.randint(0, 11, (count, length))
        mask = torch.ones_like(words)
        mask[0, length - padding :] = 0
        labels = words.masked_fill(mask == 0, -100)
        batches.append({"input_ids": words, "attention_mask": mask, "labels": labels})
    return batches


def tokens(batch):
    """The number of words that a language model is asked to predict."""
    return int((batch["labels"][:, 1:] != -100).sum())


def batch_loss(model, batch):
    return model(**batch).loss


def _language(change=lambda model: model, mode="eval"):
    def make():
        model, batches = change(language_model()), sentences()
        twin = language_model(attn_implementation="eager").double()
        twin.load_state_dict(model.state_dict())

        def loss():
            total = 0.0
            for batch in batches:
                given = {key: batch[key] for key in ("input_ids", "attention_mask")}
                said = twin(**given).logits[:, :-1].reshape(-1, 11)
                total += cross_entropy(said, batch["labels"][:, 1:].reshape(-1), reduction="sum")
            return total / sum(map(tokens, batches))

        problem = Problem(model, batches, batch_loss=batch_loss, weight=tokens, mode=mode)
        return problem, _twice(twin, loss)

    return make


def _vision():
    model, images, labels = vision_model(), torch.randn(5, 3, 8, 8), torch.arange(5) % 3
    batches = [
        {"pixel_values": images[rows], "labels": labels[rows]} for rows in (range(3), range(3, 5))
    ]
    twin = vision_model(attn_implementation="eager").double()
    twin.load_state_dict(model.state_dict())
    problem = Problem(
        model, batches, batch_loss=batch_loss, weight=lambda batch: len(batch["labels"])
    )
    loss = lambda: cross_entropy(twin(pixel_values=images.double()).logits, labels)  # noqa: E731
    return problem, _twice(twin, loss)


def _checkpointing(model):
    model.activation_checkpointing_enable()
    return model


def _twice(twin: nn.Module, loss: Callable[[], Tensor]) -> Callable[[Tensor], Tensor]:
    """The double loop on a model's own parameters."""
    parameters = list(twin.parameters())

    def products(V):
        first = torch.autograd.grad(loss(), parameters, create_graph=True)
        gradient = torch.cat([part.reshape(-1) for part in first])
        columns = []
        for v in V.T:
            second = torch.autograd.grad(gradient, parameters, v, retain_graph=True)
            columns.append(torch.cat([part.reshape(-1) for part in second]))
        return torch.stack(columns, dim=1)

    return products


MODELS = {
    "GPT-2 of Hugging Face": (_language(), NOT_LINEARIZED),
    "GPT-2 in bfloat16": (_language(lambda model: model.bfloat16()), NOT_LINEARIZED),
    "GPT-2 with checkpointing": (_language(_checkpointing, mode="train"), NOT_FORWARD),
    "ViT of Hugging Face": (_vision, ALL),
}
