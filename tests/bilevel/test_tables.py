"""Every module trains its own rows: towers, columns of one table, bags, subsets of the features.

Each is compared with torch's embeddings over whole tables, which know nothing of rows in play.
"""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from autoemb import Bag, BilevelTrainer, FixedEmbedding, PerIdLogits, SoftEmbedding
from autoemb.bilevel import Example
from autoemb.nn import Inputs, RowModule
from autoemb.ops.sizes import size_slices
from autoemb.schema import Bag as BagFeature
from autoemb.schema import Sparse
from tests.bilevel.conftest import squared_error

DIMS = (2, 3)
ROWS = {"user_id": 23, "item_id": 31, "tags": 17, "city": 13}
EXACT = {"rtol": 1e-11, "atol": 1e-12}  # float64, the same sums in another order
BATCH = 7

BUYER, SELLER = (Sparse(column=name, table="user_id") for name in ("buyer", "seller"))
SEEN = BagFeature(column="seen", table="item_id", counts=False)
TAGS = BagFeature(column="tags", pooling="sum", weights="strength")

#: Features of each module of a model: what people build.
MODELS = {
    "two towers": [["user_id"], ["item_id"]],
    "towers the other way round": [["item_id"], ["user_id"]],
    "two columns of one table": [[BUYER, "item_id", SELLER]],
    "two columns in two modules": [[BUYER], [SELLER, "item_id"]],
    "a bag of its own": [["user_id", TAGS]],
    "a bag of the items' table": [["user_id", "item_id", SEEN]],
    "a bag in another module": [["item_id", "user_id"], [SEEN, TAGS]],
    "one feature in two modules": [["user_id", "item_id"], ["item_id"]],
    "a subset": [["city"]],
}


def features_of(names):
    return [Sparse(column=name) if isinstance(name, str) else name for name in names]


def tables_of(names):
    return list(dict.fromkeys(feature.table for feature in features_of(names)))


class Sum(nn.Module):
    """Embeddings of some modules side by side, and a linear layer over them."""

    def __init__(self, embeddings):
        super().__init__()
        self.parts = nn.ModuleList(embeddings)
        self.last = nn.Linear(sum(part.num_features for part in embeddings) * DIMS[-1], 1)

    def forward(self, inputs, mix=None):
        found = [part(inputs, mix).flatten(1) for part in self.parts]
        return self.last(torch.cat(found, 1))


class Plain(nn.Module):
    """The same embedding over whole tables, with torch's lookups and pools."""

    def __init__(self, features, ours):
        super().__init__()
        self.features, self.num_features = features_of(features), len(features)
        tables = tables_of(features)
        self.tables = nn.ModuleDict({t: nn.Embedding(*ours.get_parameter(f"table_{n}").shape)
                                     for n, t in enumerate(tables)})  # fmt: skip
        for n, table in enumerate(tables):
            self.tables[table].weight = nn.Parameter(
                ours.get_parameter(f"table_{n}").detach().clone()
            )
        self.soft = isinstance(ours, SoftEmbedding)
        if self.soft:
            self.projection = nn.Parameter(ours.projection.detach().clone())
            self.bias = nn.Parameter(ours.bias.detach().clone())

    def embedded(self, table, mix):
        """Return the embeddings [V, D] of all ids of a table."""
        rows = self.tables[table].weight
        if not self.soft:
            return rows
        t = [*self.tables].index(table)
        total = 0
        for n, columns in enumerate(size_slices(DIMS)):
            z = functional.linear(rows[:, columns], self.projection[t, :, columns], self.bias[t, n])
            share = 1 / len(DIMS) if mix is None else mix[table][:, n, None]
            total = total + share * torch.tanh(z)
        return total

    def forward(self, inputs, mix=None):
        found = []
        for feature in self.features:
            values, part = self.embedded(feature.table, mix), inputs.ids[feature.column]
            if isinstance(part, Bag):
                ids, offsets, weights = part
                pool = functional.embedding_bag
                found.append(pool(ids, values, offsets[:-1], mode=feature.pooling,
                                  per_sample_weights=weights))  # fmt: skip
            else:
                found.append(functional.embedding(part, values))
        return torch.stack(found, 1)


def build(kind, names):
    torch.manual_seed(0)
    ours = []
    for features in names:
        rows = [ROWS[table] for table in tables_of(features)]
        if kind == "fixed":
            ours.append(FixedEmbedding(rows, DIMS[-1], features=features, init_std=1.0))
        else:
            ours.append(SoftEmbedding(rows, DIMS, features=features, init_std=1.0))
    model = Sum(ours).double()
    plain = Sum([Plain(*pair) for pair in zip(names, model.parts, strict=True)]).double()
    plain.last.load_state_dict(model.last.state_dict())
    return model, plain


def draw(seed):
    """Return events of a few ids, that repeat, in columns of which a model reads some."""
    random = torch.Generator().manual_seed(seed)

    def some(rows, count=BATCH):
        return torch.randint(rows // 2, (count,), generator=random) * 2

    def bag(rows, weighted):
        lengths = torch.randint(4, (BATCH,), generator=random)
        offsets = functional.pad(lengths.cumsum(0), (1, 0))
        ids = some(rows, int(offsets[-1]))
        weights = torch.rand(len(ids), generator=random, dtype=torch.float64)
        return Bag(ids, offsets, weights if weighted else None)

    ids = {
        "seller": some(23), "city": some(13), "user_id": some(23), "item_id": some(31),
        "buyer": some(23), "seen": bag(31, False), "tags": bag(17, True),
    }  # fmt: skip
    return Example(Inputs(ids), torch.rand(BATCH, generator=random, dtype=torch.float64).round())


def used(names, seeds):
    """Return the ids of each table that some batches hold in features that are read."""
    found = {}
    for seed in seeds:
        ids = draw(seed).inputs.ids
        for feature in (f for features in names for f in features_of(features)):
            part = ids[feature.column]
            values = part.values if isinstance(part, Bag) else part
            found.setdefault(feature.table, set()).update(values.tolist())
    return found


def row_tables(model):
    """Yield path, table and rows of every parameter of rows."""
    for path, child in model.named_modules():
        if isinstance(child, RowModule):
            for name, table in child.row_tables.items():
                yield f"{path}.{name}", table, child.get_parameter(name).detach()


def check_alike(model, plain):
    for part, twin in zip(model.parts, plain.parts, strict=True):
        for number, table in enumerate(twin.tables.values()):
            torch.testing.assert_close(part.get_parameter(f"table_{number}"), table.weight, **EXACT)
        if twin.soft:
            torch.testing.assert_close(part.projection, twin.projection, **EXACT)
            torch.testing.assert_close(part.bias, twin.bias, **EXACT)
    torch.testing.assert_close(model.last.weight, plain.last.weight, **EXACT)


OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.3),
    "adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=0.3),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", ["fixed", "soft"])
@pytest.mark.parametrize("names", MODELS.values(), ids=MODELS)
def test_training_changes_the_rows_that_whole_tables_would_change(names, kind, optimizer):
    model, plain = build(kind, names)
    trainer = BilevelTrainer(
        model, loss=squared_error, optimizer=optimizer, learning_rate=0.3, row_rate=1.0
    )
    theirs = OPTIMIZERS[optimizer](plain.parameters())
    before = {path: rows.clone() for path, _, rows in row_tables(model)}
    for seed in range(3):
        example = draw(seed)
        logits = plain(example.inputs)
        losses = squared_error(logits, example.label)
        theirs.zero_grad()
        losses.mean().backward()
        theirs.step()
        outcome = trainer.step(example)
        torch.testing.assert_close(outcome.logits, logits.detach(), **EXACT)
    check_alike(model, plain)
    for path, table, rows in row_tables(model):
        changed = (rows != before[path]).any(1).nonzero().flatten().tolist()
        features = names[int(path.split(".")[1])]  # that this module reads
        # All others are as they were, bit by bit.
        assert set(changed) == used([features], range(3))[table], path
        assert 0 < len(changed) < len(rows)
    inputs = draw(9).inputs
    torch.testing.assert_close(trainer.predict(inputs), plain(inputs).detach(), **EXACT)
    torch.testing.assert_close(trainer.predict(inputs), model.eval()(inputs).detach(), **EXACT)


@pytest.mark.parametrize("names", MODELS.values(), ids=MODELS)
def test_a_controller_learns_the_mix_of_each_table(names):
    model, plain = build("soft", names)
    tables = list(dict.fromkeys(t for features in names for t in tables_of(features)))
    logits = PerIdLogits(tables, [ROWS[table] for table in tables], len(DIMS)).double()
    for parameter in logits.parameters():
        nn.init.normal_(parameter)
    theirs = copy.deepcopy(logits)
    before = {path: rows.clone() for path, _, rows in row_tables(logits)}
    trainer = BilevelTrainer(
        model,
        logits,
        loss=squared_error,
        joint=True,
        optimizer="sgd",
        learning_rate=0.3,
        controller_learning_rate=3.0,
        row_rate=1.0,
    )
    steps = [torch.optim.SGD(plain.parameters(), 0.3), torch.optim.SGD(theirs.parameters(), 3.0)]
    every = {table: torch.arange(ROWS[table]) for table in tables}
    for seed in range(3):
        example = draw(seed)
        for step in steps:
            step.zero_grad()
        squared_error(plain(example.inputs, theirs(every, {})), example.label).mean().backward()
        for step in steps:
            step.step()
        trainer.step(example)
    check_alike(model, plain)
    held = used(names, range(3))
    for (path, table, rows), parameter in zip(row_tables(logits), theirs.parameters(), strict=True):
        torch.testing.assert_close(rows, parameter.detach(), **EXACT)
        changed = (rows != before[path]).any(1).nonzero().flatten().tolist()
        assert set(changed) == held[table], path
    expected = plain(draw(9).inputs, theirs(every, {})).detach()
    torch.testing.assert_close(trainer.predict(draw(9).inputs), expected, **EXACT)


@pytest.mark.parametrize("names", MODELS.values(), ids=MODELS)
def test_an_outcome_tells_where_the_ids_of_each_feature_are(names):
    model, _ = build("fixed", names)
    example = draw(0)
    outcome = BilevelTrainer(model, loss=squared_error).step(example)
    read = {f.column: f for features in names for f in features_of(features)}
    single = {name for name, f in read.items() if not isinstance(f, BagFeature)}
    assert outcome.places.keys() == single
    for name in single:
        rows = outcome.plans[read[name].table].rows
        assert torch.equal(rows[outcome.places[name]], example.inputs.ids[name])


class Neighbour(FixedEmbedding):
    """A module that looks up a row number which it made up."""

    def forward(self, inputs, mix=None):
        return super().forward({"user_id": inputs.ids["user_id"] + 1}, mix)


@pytest.mark.parametrize("made_up", [FixedEmbedding, Neighbour])
def test_a_row_number_that_a_model_made_up_is_refused(made_up):
    """The nearest row in play would be read and trained in its place."""
    torch.manual_seed(0)
    model = Sum([made_up([23], DIMS[-1], features=["user_id"])]).double()
    trainer = BilevelTrainer(model, loss=squared_error)
    example = draw(0)
    if made_up is FixedEmbedding:
        trainer.step(example)
        return
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    first = int(example.inputs.ids["user_id"][0]) + 1  # ids are even
    for attempt in (lambda: trainer.step(example), lambda: trainer.predict(example.inputs)):
        with pytest.raises(IndexError) as caught:
            attempt()
        assert str(caught.value) == f"table 'user_id': id {first} is not among the rows in play"
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
