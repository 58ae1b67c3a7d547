"""The steps of `peers.py` in PyTorch: fused optimizers, torch.compile, or SparseAdam."""

import sys

import torch
from peers import CLASSES, FILTERS, NUMBER_OF_BATCHES, THREADS, serve
from torch import nn


class TransformerBlock(nn.Module):
    """A block that normalizes first, and a classifier of each token."""

    def __init__(self, width):
        super().__init__()
        self.norm, self.other_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.hidden = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.classes = nn.Linear(width, CLASSES)

    def forward(self, x):
        normal = self.norm(x)
        x = x + self.attention(normal, normal, normal, need_weights=False)[0]
        return self.classes(x + self.hidden(self.other_norm(x)))


def model_of(workload, sparse):
    if workload.name == "transformer":
        return TransformerBlock(workload.shape[-1])
    if workload.name == "embedding":
        return nn.Sequential(nn.Embedding(workload.ids, 64, sparse=sparse), nn.Linear(64, CLASSES))
    layers = []
    if workload.name == "conv":
        for before, filters in zip((3, *FILTERS), FILTERS, strict=False):
            layers += [nn.Conv2d(before, filters, 3, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(filters), nn.ReLU(), nn.MaxPool2d(2)]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * FILTERS[-1], CLASSES))
    for _ in range(4):
        norm = workload.name == "mlp_norm"
        layers += [nn.Linear(512, 512, bias=not norm)] + [nn.BatchNorm1d(512)] * norm + [nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(512, CLASSES))


def optimizers_of(workload, model, sparse):
    if sparse:
        table, dense = model
        return [
            torch.optim.SparseAdam(table.parameters(), 1e-3),
            torch.optim.Adam(dense.parameters(), 1e-3, fused=True),
        ]
    if workload.name == "embedding":
        return [torch.optim.Adam(model.parameters(), 1e-3, fused=True)]
    return [torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.01, fused=True)]


def make_step(kind, workload):
    sparse = kind == "sparse"
    if sparse and workload.name != "embedding":
        return None
    torch.manual_seed(0)
    torch._dynamo.reset()
    model = model_of(workload, sparse)
    optimizers = optimizers_of(workload, model, sparse)
    x, y = workload.data()
    x, y = torch.from_numpy(x), torch.from_numpy(y).long()
    if workload.name == "conv":  # the faster of the two layouts here
        x = x.permute(0, 1, 4, 2, 3)
        model = model.to(memory_format=torch.channels_last)

    def loss_of(x, y):
        return nn.functional.cross_entropy(model(x).reshape(-1, CLASSES), y.reshape(-1))

    if kind == "compile":
        loss_of = torch.compile(loss_of)

    batches = [(x[i], y[i]) for i in range(NUMBER_OF_BATCHES)]

    def step(number):
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss = loss_of(*batches[number])
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        return loss.item()

    return sum(p.numel() for p in model.parameters()), step


if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    serve(lambda workload: make_step(sys.argv[1], workload))
