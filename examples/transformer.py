"""A model and a loss of your own: a small transformer, batches that are dictionaries, sentences of unequal length.

``batch_loss`` says what is minimized on a batch, ``weight`` what that batch's mean counts for: its tokens.
"""

import torch
from torch import Tensor, nn

import unstick

TEXT = "the cat sat on the mat and the dog sat on the log while the rat ran off with the hat"
WORDS = sorted(set(TEXT.split()))
PADDING = -100
Batch = dict[str, Tensor]


class Block(nn.Module):
    """Causal attention, then a layer for each word; both are added to what came in."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.each = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width), nn.Dropout(0.1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Shape [batch, length, width], in and out."""
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in self.attention(self.before(x)).chunk(3, dim=2)
        )
        seen = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.mix(seen.transpose(1, 2).flatten(2))
        return x + self.each(self.between(x))


class Transformer(nn.Module):
    """Predicts the next word from the words so far."""

    def __init__(self, width: int = 16, longest: int = 8) -> None:
        super().__init__()
        self.words = nn.Embedding(len(WORDS), width)
        self.places = nn.Embedding(longest, width)
        self.block = Block(width, heads=2)
        self.out = nn.Linear(width, len(WORDS))

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """The mean loss over the words that count."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        logits = self.out(self.block(self.words(tokens) + self.places(places)))
        return nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=PADDING
        )


def batches(size: int = 4) -> list[Batch]:
    """Three to eight words and the ones that follow them, padded to the longest of the batch."""
    numbers = torch.tensor([WORDS.index(word) for word in TEXT.split()])
    made: list[Batch] = []
    for first in range(0, len(numbers) - 9, size):
        lengths = [3 + (first + k) % 6 for k in range(size)]
        tokens = torch.zeros(size, max(lengths), dtype=torch.long)
        targets = torch.full_like(tokens, PADDING)
        for row, length in enumerate(lengths):
            begin = min(first + row, len(numbers) - length - 1)
            tokens[row, :length] = numbers[begin : begin + length]
            targets[row, :length] = numbers[begin + 1 : begin + length + 1]
        made.append({"tokens": tokens, "targets": targets})
    return made


torch.manual_seed(0)
data, model = batches(), Transformer()
optimizer = torch.optim.Adam(model.parameters(), 3e-3)
for _ in range(10):
    for batch in data:
        optimizer.zero_grad()
        model(**batch).backward()
        optimizer.step()

problem = unstick.Problem(
    model,
    data,
    batch_loss=lambda model, batch: model(**batch),
    weight=lambda batch: (batch["targets"] != PADDING).sum(),
)
print(unstick.classify(problem))  # a healthy training: not a critical point
