"""Your own training script. It needs nothing from ablate but the line that logs."""

import argparse
import time

import torch
from torch import nn

import ablate

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=1e-3)
parser.add_argument("--activation", choices=["gelu", "relu"], default="gelu")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--steps", type=int, default=300)
options = parser.parse_args()

torch.manual_seed(options.seed)
torch.set_num_threads(1)
activation = nn.GELU() if options.activation == "gelu" else nn.ReLU()
model = nn.Sequential(nn.Linear(16, 64), activation, nn.Linear(64, 64), activation, nn.Linear(64, 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr)
teacher = torch.randn(16, 10, generator=torch.Generator().manual_seed(0))


def draw(n: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """n inputs, and the classes that the teacher gives them."""
    x = torch.randn(n, 16, generator=generator)
    return x, (x.sin() @ teacher).argmax(1)


train_data, held_out = torch.Generator().manual_seed(options.seed), draw(2000, torch.Generator().manual_seed(1))
started = time.perf_counter()
for step in range(1, options.steps + 1):
    x, y = draw(64, train_data)
    loss = nn.functional.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 20 == 0:
        with torch.no_grad():
            logits = model(held_out[0])
            val_loss = nn.functional.cross_entropy(logits, held_out[1]).item()
            accuracy = (logits.argmax(1) == held_out[1]).float().mean().item()
        # Outside a study, this line does nothing.
        ablate.log(step=step, val_loss=val_loss, accuracy=accuracy, train_loss=loss.item())
        print(f"step {step}: val loss {val_loss:.4f}, {time.perf_counter() - started:.1f} s")
