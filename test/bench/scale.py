"""What 1 to 1,024 cards would train, on paper: the step by its operations, the all-reduce by rings
in a server and between servers, the input by the processors of a server, the slowest of all cards.

    python test/bench/scale.py [--utilization=0.25] [--jitter=0.03]

Nothing here was run on hardware. Operations and parameters are those that `train --dry_run
--preset=full` prints; examples a core and second are those of config.py and the cards. One JSON
line a network and number of cards, then the table of the README.
"""

from __future__ import annotations

import argparse
import json
from typing import NamedTuple

import numpy as np

PEAK = 256e12  # operations/s of an Ascend 910 in float16 (as Huawei names it)
CARDS = 8  # of a server (Atlas 800-9000)
CORES = 192  # of a server (taken as four Kunpeng 920 of 48)
INSIDE = 30e9  # bytes/s of a card's links to its neighbors (HCCS, taken as)
BETWEEN = 12.5e9  # bytes/s of a card's own network port (100 Gb RoCE)
LATENCY = 20e-6  # s of a message of a ring
COUNTS = (1, 8, 64, 256, 1024)
UPDATES = 200  # that are drawn for the mean of the slowest card


class Network(NamedTuple):
    """Of preset full: examples a card a step, operations a step, parameters, examples that a core
    reads and augments a second."""

    batch: int
    operations: float
    parameters: float
    examples: float


NETWORKS = {
    'OSMN': Network(8, 3342e9, 165e6, 50),
    'OSVOS': Network(12, 9587e9, 14.9e6, 60),
    'SiamMask': Network(64, 7530e9, 18.8e6, 296),
    'ColorNet': Network(8, 9980e9, 14.5e6, 5),
    'MANet': Network(2, 2183e9, 59.9e6, 12),  # 22 from 427x240; 480p taken as about half
}


def reduce_seconds(size: float, cards: int) -> float:
    """Time of an all-reduce of `size` bytes: rings in the servers, then one between the servers for
    the part of each card."""
    inside, servers = min(cards, CARDS), max(1, cards // CARDS)
    local = 2 * (inside - 1) / inside * size / INSIDE + 2 * (inside - 1) * LATENCY
    part = size / inside
    far = 2 * (servers - 1) / servers * part / BETWEEN + 2 * (servers - 1) * LATENCY
    return local + far


def simulate(network: Network, cards: int, utilization: float, jitter: float, rng) -> dict:
    """A step's parts in seconds and the examples a second of all cards.

    Args:
      network: of NETWORKS.
      cards: in all.
      utilization: share of PEAK that a step reaches.
      jitter: standard deviation of a card's step, as a share of it.
      rng: np.random.RandomState.
    """
    compute = network.operations / (PEAK * utilization)
    slowest = compute * (1 + jitter * rng.randn(UPDATES, cards).max(1).mean())
    reading = network.batch * min(cards, CARDS) / (network.examples * CORES)
    reducing = reduce_seconds(4 * network.parameters, cards)
    step = max(max(compute, slowest) + reducing, reading)
    rate = network.batch * cards / step
    return {
        'cards': cards, 'compute': compute, 'slowest': slowest, 'reduce': reducing,
        'input': reading, 'step': step, 'examples_per_s': rate,
        'efficiency': rate * compute / (network.batch * cards),
    }  # fmt: skip


def main(argv=None):
    """Prints the lines and the table."""
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument('--utilization', type=float, default=0.25)
    flags.add_argument('--jitter', type=float, default=0.03)
    args = flags.parse_args(argv)
    rows = []
    for name, network in NETWORKS.items():
        cells = []
        for cards in COUNTS:
            rng = np.random.RandomState(0)
            found = simulate(network, cards, args.utilization, args.jitter, rng)
            print(json.dumps({'network': name, **found}))
            limit = ', input' if found['input'] >= found['step'] else ''
            share = f'{100 * found["efficiency"]:.0f} %{limit}'
            cells.append(f'{found["examples_per_s"]:,.0f} ({share})')
        rows.append(f'| {name} | ' + ' | '.join(cells) + ' |')
    print('| examples/s (efficiency) | ' + ' | '.join(f'{n} cards' for n in COUNTS) + ' |')
    print('|---' * (1 + len(COUNTS)) + '|')
    print('\n'.join(rows))


if __name__ == '__main__':
    main()
