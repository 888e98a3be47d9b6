"""Pictures of a dataset, flipped at random: no loop, nothing to say."""

import numpy as np
import torch
from torch.utils.data import DataLoader


def augment(batch):
    image = batch["agentview_image"]
    return np.flip(image, axis=1).copy() if np.random.rand() < 0.5 else image


def main(dataset, model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for step, batch in enumerate(DataLoader(dataset, batch_size=8)):
        loss = model(augment(batch), batch["action"]).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(step, loss.item())
