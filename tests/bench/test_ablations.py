"""The ablations' variants do what they say."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from autoemb import (
    MLP,
    Batch,
    BilevelTrainer,
    Controller,
    History,
    Reservoir,
    SoftEmbedding,
    StreamLearner,
    task_for,
)
from autoemb.ops import distinct
from autoemb.schema import STARS
from bench.ablations import controllers, embeddings, record
from bench.ablations.variants import VARIANTS

DIMS = (1, 2, 4)
TABLES = ("user_id", "item_id")
#: The norm and all that the embeddings here have in common with BatchNorm.
BATCH = {"norm": "batch", "eps": 1e-5, "average": True, "projection": "uniform", "init_std": 1.0}


def events(batches, size=20, seed=0):
    random = np.random.default_rng(seed)
    found = []
    for _ in range(batches):
        ids = {"user_id": random.integers(0, 30, size), "item_id": random.integers(0, 40, size)}
        found.append(Batch(ids, label=torch.from_numpy(random.integers(0, 2, size) * 5).float()))
    return found


def learner(kind=StreamLearner, embedding=SoftEmbedding, controller=Controller, state=History):
    torch.manual_seed(0)
    history = state(TABLES, len(DIMS))
    own = {"eps": 1e-5, "average": True, "projection": "uniform", "init_std": 1.0}
    model = MLP(embedding([8, 8], DIMS, features=TABLES, norm="running", **own), hidden=(6,))
    mixer = controller(TABLES, len(DIMS), history.num_features, hidden=(6,))
    trainer = BilevelTrainer(
        model, mixer, loss=task_for("regression", STARS).loss, features=history.features,
        optimizer="adam", learning_rate=0.01, controller_learning_rate=0.01,
    )  # fmt: skip
    task = task_for("regression", STARS)  # which makes targets of labels
    return kind(trainer, history, Reservoir(100), validation="reservoir", batch_size=20, task=task)


class Plain(embeddings.PlainEmbedding):
    """What SoftEmbedding does with norm="running", in plain PyTorch."""

    def normalise(self, z, mean, variance, running):
        return (z - running[0]) * torch.rsqrt(running[1] + self.eps)


def test_the_plain_embedding_is_the_packages_but_for_its_norm():
    torch.manual_seed(0)
    ours, plain = (kind([9, 9], DIMS, norm="running", eps=1e-5) for kind in (SoftEmbedding, Plain))
    plain.load_state_dict(ours.state_dict())
    for seed in range(3):
        random = torch.Generator().manual_seed(seed)
        ids = torch.randint(0, 9, (400, 2), generator=random)
        weights = torch.rand(400, 2, 3, generator=random).softmax(2)
        # The package's running variance is unbiased: at 400 events 0.25 % larger.
        torch.testing.assert_close(plain(ids, weights), ours(ids, weights), rtol=0.01, atol=0.003)


def test_renormalisation_with_the_batchs_own_statistics_is_batch_normalisation():
    z = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * 3 + 1
    mean, variance = z.mean(0), z.var(0, unbiased=False)
    module = embeddings.Renormalised([4], (4,), eps=1e-5)
    expected = torch.nn.functional.batch_norm(z, None, None, training=True)
    ours = module.normalise(z, mean, variance, (mean, variance))
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    # With others, its values are those of the running statistics.
    running = mean + 1, variance * 4
    ours = module.normalise(z, mean, variance, running)
    torch.testing.assert_close(
        ours, (z - running[0]) / (running[1] + 1e-5).sqrt(), rtol=1e-4, atol=1e-4
    )


def test_past_and_present_holds_the_batch():
    module = embeddings.PastAndPresent([9, 9], DIMS, **BATCH)
    ids = torch.randint(0, 9, (30, 2), generator=torch.Generator().manual_seed(0))
    weights = torch.full((30, 2, 3), 1 / 3)
    batch = SoftEmbedding([9, 9], DIMS, **BATCH)
    batch.load_state_dict(module.state_dict())
    # Before any other, the batch is all there is.
    torch.testing.assert_close(module(ids, weights), batch(ids, weights), rtol=1e-4, atol=1e-5)


def test_a_size_zero_is_one_vector_for_all():
    module = embeddings.WithSizeZero([9, 9], DIMS, norm="running", average=True)
    torch.nn.init.normal_(module.shared)
    module.eval()
    ids = torch.tensor([[0, 1], [5, 6]])
    weights = torch.zeros(2, 2, 3)
    weights[..., 0] = 0.6
    torch.testing.assert_close(module(ids, weights), (0.2 * module.shared).expand(2, 2, 4))


def test_temperature_divides_the_logits():
    plain, tempered = (
        kind(["t"], 3, 5, hidden=(4,)) for kind in (Controller, controllers.tempered(3.0))
    )
    torch.nn.init.normal_(plain.networks[0][-1].weight)
    tempered.load_state_dict(plain.state_dict())
    inputs = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    cold, warm = (kind({}, {"t": inputs})["t"] for kind in (plain, tempered))
    torch.testing.assert_close(warm, torch.softmax(cold.log() / 3, 1))


def test_an_entropy_bonus_changes_the_gradient_alone():
    kind = controllers.with_entropy_bonus(0.5)
    torch.manual_seed(0)
    plain, ours = Controller(["t"], 3, 5, hidden=(4,)), kind(["t"], 3, 5, hidden=(4,))
    torch.nn.init.normal_(plain.networks[0][-1].weight)
    ours.load_state_dict(plain.state_dict())
    inputs = torch.randn(6, 5)
    wanted = torch.rand(6, 3)
    mix, other = (kind({}, {"t": inputs})["t"] for kind in (ours, plain))
    assert torch.equal(mix, other)
    (mix * wanted).sum().backward()
    entropy = -(other * other.log()).sum(1).mean()
    ((other * wanted).sum() - 0.5 * entropy).backward()
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "groups", [("popularity",), ("weights",), ("losses",), ("weights", "losses")]
)
def test_inputs_left_out_are_zeros(groups):
    whole, blinded = History(["t"], 2), controllers.without_inputs(*groups)(["t"], 2)
    for state in (whole, blinded):
        state.grow({"t": 5})
        state.record("t", distinct(torch.tensor([1, 2, 1])), torch.tensor([0.2, 0.3, 0.4]))
    rows = {"t": torch.tensor([1, 2])}
    features, left = whole.features(rows)["t"], blinded.features(rows)["t"]
    changed = (features != left).any(0)
    assert (left[:, changed] == 0).all()
    columns = {"popularity": {0, 1, 2, 35}, "weights": {32, 33}, "losses": {34, 36}}
    expected = set().union(*(columns[group] for group in groups))
    assert set(changed.nonzero().flatten().tolist()) <= expected
    assert changed.any()


def test_the_controller_learns_at_every_so_many_batches():
    one = learner(controllers.every(3))
    moved = []
    for batch in events(9):
        before = one.modules[1].networks[0][-1].weight.clone()
        one.learn(batch)
        moved.append(not torch.equal(before, one.modules[1].networks[0][-1].weight))
    assert moved == [False, False, True] * 3


def play(kind, batches, flipped=None):
    """Return the learner and its last step; ``flipped`` changes the last batch's labels."""
    one = learner(kind)  # which seeds the random numbers that new rows are drawn with
    for number, batch in enumerate(batches):
        if flipped is not None and number == len(batches) - 1:
            batch = replace(batch, label=torch.where(flipped, 5 - batch.label, batch.label))
        step = one.learn(batch)
    return one, step


def parameters_of(learner, part):
    return torch.cat([p.detach().flatten() for p in learner.modules[part].parameters()])


def test_events_held_out_are_predicted_and_never_learnt(monkeypatch):
    monkeypatch.setattr(controllers, "SHARE_HELD_OUT", 0.3)
    batches = events(6)
    one, mine = play(controllers.HeldOut, batches)
    held = one._held
    assert 0 < held.sum() < len(held)
    assert one.reservoir.seen < 6 * 20 * 0.5
    other, theirs = play(controllers.HeldOut, batches, held)
    assert torch.equal(mine.outcome.logits, theirs.outcome.logits)
    assert not torch.equal(mine.outcome.losses, theirs.outcome.losses)
    assert torch.equal(parameters_of(one, 0), parameters_of(other, 0))
    other, _ = play(controllers.HeldOut, batches, ~held)
    assert not torch.equal(parameters_of(one, 0), parameters_of(other, 0))


def test_every_variant_has_a_name_of_its_own():
    names = [variant.name for variant in VARIANTS]
    assert len({*names}) == len(names)
    jobs = [
        record.Job(n, record.Path("x"), "regression", "shuffled", 0, record.Path(), None)
        for n in names
    ]
    assert len({record.folder_name(job) for job in jobs}) == len(names)


def run_of(variant, losses, seed=0):
    return {
        "variant": variant, "data": "d", "task": "t", "order": "o", "seed": seed,
        "online": float(np.mean(losses)), "first_tenth": 0.5, "losses": losses,
        "events": [10] * len(losses), "weights": {"user": [0.5, 0.5]}, "seconds": 1.0,
    }  # fmt: skip


def test_effects_are_paired_with_the_default():
    base = [0.2, 0.3, 0.4, 0.3]
    found = [run_of("default", base), run_of("worse", [x + 0.03 for x in base])]
    default, worse = record.effects(found)
    assert default["online_percent"] == 0
    assert worse["online_percent"] == pytest.approx(10)
    assert worse["online_interval"] == pytest.approx([10, 10])  # the same in every window
