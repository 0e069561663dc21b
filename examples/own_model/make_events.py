"""A made-up stream of clicks: users and items have tastes, and both keep coming."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

USERS, ITEMS, SHOPS = 200, 300, 20
CITIES = ("Graz", "Linz", "Wien")
DEVICES = ("phone", "tablet", "computer")


def write_events(path: Path, count: int = 12_000, seed: int = 0) -> None:
    """Write a CSV file of events in the order of time, the same for the same seed."""
    random = np.random.default_rng(seed)
    tastes = random.normal(size=(USERS, 2))
    styles = random.normal(size=(ITEMS, 2))
    prices = np.exp(random.normal(3, 1, ITEMS))
    seen: dict[int, list[int]] = {}
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(
            ["timestamp", "user_id", "city", "device", "item_id", "shop", "last_items", "price",
             "age", "click"]
        )  # fmt: skip
        for event in range(count):
            known = 0.2 + 0.8 * event / count  # more users and items as time goes on
            user = int(USERS * known * random.random() ** 2)
            item = int(ITEMS * known * random.random() ** 2)
            last = seen.setdefault(user, [])
            likes = 3 * tastes[user] @ styles[item] - 0.5 * np.log(prices[item] / 20) - 1
            click = random.random() < 1 / (1 + np.exp(-likes))
            age = "" if user % 7 == 0 else 18 + user % 60  # some users do not tell
            rows.writerow(
                [1_700_000_000 + 60 * event, f"user-{user}", CITIES[user % 3],
                 DEVICES[int(random.integers(3))], 10**12 + item, item % SHOPS,
                 "|".join(str(10**12 + other) for other in last), f"{prices[item]:.2f}", age,
                 int(click)]
            )  # fmt: skip
            if click:
                seen[user] = [item, *last][:4]
