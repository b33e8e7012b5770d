"""A training that stands still: ``python stuck.py`` trains and writes model.pt.

Then ask why: ``unstick diagnose stuck.py:problem --checkpoint model.pt --html report.html``
"""

import torch
from torch import nn

import unstick

digits = unstick.data.load("digits")
data = (digits.train_inputs, digits.train_targets)
model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
loss = nn.CrossEntropyLoss()


def problem() -> unstick.Problem:
    """The target: your model with its data and its loss."""
    return unstick.Problem(model, data, loss)


def train() -> None:
    """Full batches and plain SGD, but every weight starts at zero."""
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs, targets = data
    for update in range(400):
        optimizer.zero_grad()
        value = loss(model(inputs), targets)
        value.backward()
        optimizer.step()
        if update % 100 == 0:
            print(f"update {update}: loss {value.item():.4f}")
    torch.save(model.state_dict(), "model.pt")


if __name__ == "__main__":
    train()
