"""Iterative training: PyTorch, with a shared state that grows.

Four networks learn a function from measurements. Where they disagree most, new
measurements are made; they join those that there are, and all networks train again.
Each round passes *all* measurements to each task, but only the new ones are stored: the
others have the content that they had. They are NumPy arrays, each of which is stored by
itself; tensors in a list would be stored with the list.
"""

import numpy as np
import torch

from daskref import Client, stats

ROUNDS, NETWORKS, NEW = 5, 4, 20_000


def measure(x):
    """Return what is to be learned."""
    return torch.sin(3 * x).prod(dim=1, keepdim=True) + x[:, :1] ** 2


def make_network(seed):
    """Return a small network."""
    torch.manual_seed(seed)
    layers = [torch.nn.Linear(8, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1)]
    return torch.nn.Sequential(*layers)


def train(network, measured):
    """Return a network, trained a bit more."""
    torch.set_num_threads(1)
    x = torch.from_numpy(np.concatenate([x for x, _ in measured]))
    y = torch.from_numpy(np.concatenate([y for _, y in measured]))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(25):
        some = torch.randint(len(x), (2_000,))
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(network(x[some]), y[some]).backward()
        optimizer.step()
    return network


def run(client):
    """Return each round's error, and what was stored and passed until then."""
    torch.manual_seed(0)
    test = torch.rand(5_000, 8) * 2 - 1
    networks = [make_network(seed) for seed in range(NETWORKS)]
    measured, errors, costs = [], [], []
    x = torch.rand(NEW, 8) * 2 - 1
    for _ in range(ROUNDS):
        measured.append((x.numpy(), measure(x).numpy()))
        futures = [client.submit(train, network, measured) for network in networks]
        networks = client.gather(futures)
        with torch.no_grad():
            errors.append(float((networks[0](test) - measure(test)).square().mean()))
            anywhere = torch.rand(5 * NEW, 8) * 2 - 1
            answers = torch.stack([network(anywhere) for network in networks])
            x = anywhere[answers.var(dim=0).flatten().topk(NEW).indices]
        costs.append(stats(client))
    return errors, costs


if __name__ == "__main__":
    with Client(
        n_workers=2, threads_per_worker=1, threshold="50 kB", dashboard_address=":0"
    ) as client:
        errors, costs = run(client)
        print("error:", *(f"{error:.3f}" for error in errors))
        print(f"puts: {costs[-1]['puts']}")
        print(f"by reference: {costs[-1]['bytes_kept'] / 1e6:.0f} MB")
