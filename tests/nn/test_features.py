"""Features by name: sparse ones and bags, tables of their own and shared, in any order."""

import pytest
import torch

from autoemb import Bag, FixedEmbedding, SoftEmbedding
from autoemb.nn import Inputs
from autoemb.nn.granted_sizes import GrantedEmbedding
from autoemb.ops.sizes import size_slices
from autoemb.schema import Bag as BagFeature
from autoemb.schema import Sparse
from tests.nn.small import PAPER, let_own

DIMS = (1, 3)
ROWS = {"user_id": 6, "item_id": 9, "tags": 4}
# Tables in the order of first naming: item_id, tags, user_id. The items' is read three times, a
# bag owns the tags', and the users' is between them in the output, not at its end.
FEATURES = [
    BagFeature(column="prev_items", table="item_id", counts=False),
    BagFeature(column="tags", pooling="sum"),
    Sparse(column="user_id"),
    Sparse(column="item_id"),
    BagFeature(column="cart", table="item_id", pooling="sum", weights="prices"),
]
TABLES = ["item_id", "tags", "user_id"]
EVENTS = 5


def bag(rows, lengths, weighted, random):
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    values = torch.randint(rows, (sum(lengths),), generator=random)
    weights = torch.rand(len(values), generator=random, dtype=torch.float64) if weighted else None
    return Bag(values, offsets, weights)


def draw(seed=0):
    """Return ids of five events; the bags of some are empty, and ids repeat within bags."""
    random = torch.Generator().manual_seed(seed)
    return {
        "item_id": torch.randint(9, (EVENTS,), generator=random),
        "user_id": torch.randint(6, (EVENTS,), generator=random),
        "city": torch.zeros(EVENTS, dtype=torch.int64),  # nobody reads it
        "tags": bag(4, [3, 0, 1, 5, 0], False, random),
        "cart": bag(9, [0, 2, 2, 1, 4], True, random),
        "prev_items": bag(9, [1, 0, 6, 2, 1], False, random),
    }


def draw_mix(dtype=torch.float64):
    return {t: torch.rand(ROWS[t], len(DIMS), dtype=dtype).softmax(1) for t in TABLES}


def soft(**options):
    torch.manual_seed(0)
    rows = [ROWS[table] for table in TABLES]
    options = PAPER | {"dtype": torch.float64, "features": FEATURES} | options
    return SoftEmbedding(rows, DIMS, **options)


def occurrences(ids):
    """Yield each feature, the event of each of its ids, the ids, and their weights in the pool."""
    for feature in FEATURES:
        part = ids[feature.column]
        if isinstance(part, Bag):
            events = torch.arange(EVENTS).repeat_interleave(part.offsets.diff())
            weights = torch.ones(len(events), dtype=torch.float64)
            weights = weights if part.weights is None else part.weights
            yield feature, events, part.values, weights
        else:
            yield feature, torch.arange(EVENTS), part, torch.ones(EVENTS, dtype=torch.float64)


def pooled(feature, embedded, events, weights):
    """Pool the embeddings of ids event by event, as a loop says it."""
    rows = []
    for event in range(EVENTS):
        own = [(w, e) for w, e, b in zip(weights, embedded, events, strict=True) if b == event]
        total = sum((w * e for w, e in own), torch.zeros(embedded.shape[1], dtype=torch.float64))
        mean = isinstance(feature, BagFeature) and feature.pooling == "mean" and own
        rows.append(total / sum(w for w, _ in own) if mean else total)
    return torch.stack(rows)


def by_hand(module, ids, mix, running=None):
    """Eqs. 1, 2 and 7 id by id over whole tables; ``mix`` is of each row by table.

    ``running`` holds means and variances; without them those of all ids of a table in the batch,
    or none where nothing is normalised.
    """
    everywhere = [*occurrences(ids)]
    found = []
    for feature, events, own, weights in everywhere:
        t = TABLES.index(feature.table)
        every = torch.cat([x for f, _, x, _ in everywhere if f.table == feature.table])
        total = 0
        for n, columns in enumerate(size_slices(DIMS)):

            def z(some, t=t, n=n, columns=columns):
                rows, matrix = module.tables[t][some, columns], module.projection[t, :, columns]
                return rows @ matrix.T + module.bias[t, n]

            y = z(own)
            if running is not None:
                y = (y - running[0][t, n]) / (running[1][t, n] + module.eps).sqrt()
            elif module.norm != "none":
                mean, variance = z(every).mean(0), z(every).var(0, correction=0)
                y = (y - mean) / (variance + module.eps).sqrt()
            total = total + mix[feature.table][own, n, None] * torch.tanh(y)
        total = total / len(DIMS) if module.average else total
        found.append(pooled(feature, total, events, weights))
    return torch.stack(found, 1)


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize(
    ("norm", "training"),
    [("none", True), ("none", False), ("batch", True), ("batch", False), ("running", True),
     ("running", False)],
)  # fmt: skip
def test_every_feature_gets_its_ids_of_its_table(norm, training, average, assert_near):
    module = soft(norm=norm, average=average)
    module(draw(seed=1))  # statistics that are not those of the start
    module.train(training)
    running = None
    if norm != "none" and not (norm == "batch" and training):
        running = module.running_mean.clone(), module.running_var.clone()
    ids, mix = draw(), draw_mix()
    for weights in mix.values():
        weights.requires_grad_()
    output = module(ids, mix)
    expected = by_hand(module, ids, mix, running)
    assert output.shape == (EVENTS, len(FEATURES), DIMS[-1])
    assert_near(output, expected)
    leaves = [*module.parameters(), *mix.values()]
    grad = torch.randn(output.shape, dtype=torch.float64)
    pairs = zip(
        torch.autograd.grad(output, leaves, grad, allow_unused=True, materialize_grads=True),
        torch.autograd.grad(expected, leaves, grad, allow_unused=True, materialize_grads=True),
        strict=True,
    )
    for one, other in pairs:
        assert_near(one, other, "gradients")


@pytest.mark.parametrize("norm", ["batch", "running"])
def test_statistics_count_every_occurrence_of_an_id(norm, assert_near):
    module = soft(norm=norm, momentum=1.0)
    ids = draw()
    module(ids)
    items = torch.cat([own for f, _, own, _ in occurrences(ids) if f.table == "item_id"])
    for n, columns in enumerate(size_slices(DIMS)):
        z = module.tables[0][items, columns] @ module.projection[0, :, columns].T
        assert_near(module.running_mean[0, n], (z + module.bias[0, n]).mean(0))
        assert_near(module.running_var[0, n], z.var(0, correction=1))
    assert module.num_batches_tracked.tolist() == [[1, 1]] * 3


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("norm", ["none", "batch", "running"])
def test_the_mix_by_table_is_the_mix_of_each_event(norm, training, assert_near):
    """Mixed by event an id is computed wherever it occurs, by table once: the same numbers."""
    outputs, grads = [], []
    ids = draw()
    events = torch.rand(1, len(FEATURES), 2, dtype=torch.float64).expand(EVENTS, -1, -1)
    # The same mix for all ids of a table, since an event's would differ from another's.
    each = {t: torch.rand(2, dtype=torch.float64).softmax(0) for t in TABLES}
    events = torch.stack([each[f.table] for f in FEATURES]).expand(EVENTS, -1, -1)
    for mix in (events, {t: each[t].expand(ROWS[t], 2) for t in TABLES}):
        module = soft(norm=norm).train(training)
        outputs.append(module(ids, mix))
        outputs[-1].square().sum().backward()
        grads.append([p.grad for p in module.parameters()])
    assert_near(outputs[0], outputs[1])
    for one, other in zip(*grads, strict=True):
        assert_near(one, other, "gradients")


def event(ids, number):
    """Return one of the events alone."""
    one = {}
    for name, part in ids.items():
        if isinstance(part, Bag):
            own = slice(*part.offsets[number : number + 2])
            weights = None if part.weights is None else part.weights[own]
            lengths = torch.tensor([0, own.stop - own.start])
            one[name] = Bag(part.values[own], lengths, weights)
        else:
            one[name] = part[number : number + 1]
    return one


@pytest.mark.parametrize("training", [False, True])
def test_all_ids_of_a_bag_share_the_mix_of_their_event(training, assert_near):
    module, ids = soft(norm="none").train(training), draw()
    mix = torch.rand(EVENTS, len(FEATURES), 2, dtype=torch.float64)
    output = module(ids, mix)
    for b in range(EVENTS):
        for f in range(len(FEATURES)):
            by_table = {t: mix[b, f].expand(ROWS[t], 2) for t in TABLES}
            assert_near(output[b, f], module(event(ids, b), by_table)[0, f])


@pytest.mark.parametrize("kind", ["column", "name", "trained by name"])
def test_without_a_mix_all_sizes_have_an_equal_share(kind):
    module = soft(features=["item_id", "tags", "user_id"], norm="none")
    module.train(kind == "trained by name")
    columns = torch.randint(4, (7, 3))
    uniform = torch.full((7, 3, 2), 0.5, dtype=torch.float64)
    ids = columns if kind == "column" else dict(zip(TABLES, columns.unbind(1), strict=True))
    assert torch.equal(module(ids), module(columns, uniform))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("norm", ["none", "batch", "running"])
def test_by_name_and_by_column_are_the_same(norm, training):
    columns, mix = torch.randint(4, (7, 3)), torch.rand(7, 3, 2, dtype=torch.float64)
    results = []
    named = dict(zip(reversed(TABLES), reversed(columns.unbind(1)), strict=True))
    for ids in (columns, named, Inputs(named, torch.ones(7, 1))):
        module = soft(features=TABLES, norm=norm).train(training)
        results.append((module(ids, mix), dict(module.state_dict())))
    for output, state in results[1:]:
        assert torch.equal(output, results[0][0])
        assert all(torch.equal(value, results[0][1][key]) for key, value in state.items())


def test_names_and_columns_give_the_plain_modules_numbers():
    plain, named = soft(features=None), soft(features=TABLES)
    columns, mix = torch.randint(4, (7, 3)), torch.rand(7, 3, 2, dtype=torch.float64)
    assert torch.equal(plain(columns, mix), named(columns, mix))


# Other embeddings


def test_a_fixed_width_is_looked_up_and_pooled():
    module = FixedEmbedding([9, 4, 6], 3, features=FEATURES, dtype=torch.float64)
    tables = dict(zip(TABLES, module.parameters(), strict=True))
    ids = draw()
    parts = occurrences(ids)
    expected = torch.stack([pooled(f, tables[f.table][x], b, w) for f, b, x, w in parts], 1)
    output = module(ids)
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)
    for one, other in zip(
        torch.autograd.grad(output.square().sum(), [*tables.values()]),
        torch.autograd.grad(expected.square().sum(), [*tables.values()]),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("norm", ["none", "batch", "running"])
def test_granted_rows_are_read_by_name_with_the_mix_shared_out(norm, training, assert_near):
    options = PAPER | {"norm": norm, "dtype": torch.float64, "features": FEATURES}
    torch.manual_seed(0)
    granted = GrantedEmbedding([9, 4, 6], DIMS, **options)
    for t, rows in enumerate((9, 4, 6)):
        for size in range(2):  # the even ids own the wide size, those from 2 on the narrow one
            ids = torch.arange(rows)
            own = let_own(granted, t, ids[ids % 2 == 0] if size else ids[2:], size)
            with torch.no_grad():
                granted.arena(t, size).rows[own] = torch.randn(len(own), DIMS[size]).double()
    module = soft(norm=norm)
    state = {k: v for k, v in granted.state_dict().items() if k.startswith(("proj", "norms"))}
    mix, shared_out = draw_mix(), {}
    for t, table in enumerate(TABLES):
        rows = torch.arange(ROWS[table])
        values = granted.rows_of_table(f"table_{t}", rows).detach()
        for size, columns in enumerate(size_slices(DIMS)):
            state[f"tables.{t}.{size}"] = values[:, columns]
        own = mix[table] * torch.stack([rows >= 2, rows % 2 == 0], 1)
        total = own.sum(1, keepdim=True)
        shared_out[table] = torch.where(total > 0, own / total, mix[table])  # id 1 owns nothing
    module.load_state_dict(state)
    for part in (granted, module):
        part.train(training)
    for seed in range(2):  # statistics follow alike
        assert_near(granted(draw(seed), mix), module(draw(seed), shared_out))


def test_a_granted_bag_takes_no_mix_of_events():
    features = [BagFeature(column="tags")]
    module = GrantedEmbedding([4], DIMS, features=features)
    ids = {"tags": Bag(torch.tensor([3, 1, 0]), torch.tensor([0, 2, 2, 3]))}  # as many as events
    with pytest.raises(ValueError, match="bags: give the mix by table"):
        module(ids, torch.full((3, 1, 2), 0.5))
    assert module(ids, {"tags": torch.full((4, 2), 0.5)}).shape == (3, 1, 3)


# KeyedJaggedTensor, by its shape


class Keyed:
    """What is asked of torchrec's: it is never imported."""

    def __init__(self, parts, weighted=False):
        self.parts, self.weighted = parts, weighted

    def keys(self):
        return [*self.parts]

    def values(self):
        return torch.cat([part[0] for part in self.parts.values()]).int()

    def lengths(self):
        return torch.cat([part[1].diff() for part in self.parts.values()])

    def offsets(self):
        return torch.cat([torch.zeros(1, dtype=torch.int64), self.lengths().cumsum(0)])

    def weights_or_none(self):
        if not self.weighted:
            return None
        return torch.cat([part[2] for part in self.parts.values()])


def keyed(ids, weighted):
    parts = {}
    for feature, _, values, weights in occurrences(ids):
        part = ids[feature.column]
        one_each = torch.arange(EVENTS + 1)
        offsets = part.offsets if isinstance(part, Bag) else one_each
        parts[feature.column] = values, offsets, weights
    parts["city"] = ids["city"], torch.arange(EVENTS + 1), torch.ones(EVENTS).double()
    return Keyed(parts, weighted)


@pytest.mark.parametrize("kind", ["soft", "fixed", "granted"])
def test_a_keyed_jagged_tensor_is_read_as_the_same_ids(kind):
    rows = [9, 4, 6]
    module = {
        "soft": soft,
        "fixed": lambda: FixedEmbedding(rows, 3, features=FEATURES, dtype=torch.float64),
        "granted": lambda: GrantedEmbedding(rows, DIMS, features=FEATURES, dtype=torch.float64),
    }[kind]()
    ids, mix = draw(), draw_mix()
    assert torch.equal(module(keyed(ids, weighted=True), mix), module(ids, mix))
    ids["cart"] = ids["cart"]._replace(weights=None)
    assert torch.equal(module(keyed(ids, weighted=False), mix), module(ids, mix))


def test_a_keyed_jagged_tensor_that_does_not_fit_is_refused():
    module = SoftEmbedding([4], DIMS, features=["user_id"])
    two = Keyed({"user_id": (torch.tensor([3, 1, 0]), torch.tensor([0, 1, 3]))})
    with pytest.raises(ValueError, match="'user_id': event 1 holds 2 ids; expected one"):
        module(two)
    none = Keyed({"user_id": (torch.tensor([3]), torch.tensor([0, 1, 1]))})
    with pytest.raises(ValueError, match="'user_id': event 1 holds 0 ids; expected one"):
        module(none)
    odd = Keyed(
        {"user_id": (torch.tensor([3]), torch.tensor([0, 1])), "b": (torch.ones(0), two.lengths())}
    )
    odd.lengths = lambda: torch.tensor([1, 1, 1])
    with pytest.raises(ValueError, match="4 offsets do not fit the 2 keys"):
        module(odd)


# What is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user_id": None}, r"feature 'user_id' is missing; there are item_id, city, tags"),
        ({"tags": torch.zeros(5, dtype=torch.int64)},
         "feature 'tags' is one id an event; the module reads a bag"),
        ({"user_id": Bag(torch.zeros(5, dtype=torch.int64), torch.arange(6))},
         "feature 'user_id' is a bag; the module reads one id an event"),
        ({"user_id": torch.zeros(5)},
         r"feature 'user_id': expected int64 rows .* torch.float32 \[5\]"),
        ({"user_id": torch.zeros(5, 1, dtype=torch.int64)}, r"'user_id': expected .* \[5, 1\]"),
        ({"user_id": torch.zeros(4, dtype=torch.int64)}, r"numbers of events: \[4, 5\]"),
        ({"tags": Bag(torch.zeros(3, dtype=torch.int64), torch.tensor([0, 1, 1, 1, 2, 2]))},
         "'tags': offsets of a bag go from 0 to 2; expected from 0 to 3"),
        ({"tags": Bag(torch.zeros(3, dtype=torch.int64), torch.tensor([1, 1, 1, 1, 2, 3]))},
         "'tags': offsets of a bag go from 1 to 3; expected from 0 to 3"),
        ({"tags": Bag(torch.zeros(3, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))},
         "'tags': a bag of 3 ids has 0 offsets"),
        ({"tags": Bag(torch.zeros(3, dtype=torch.int64), [0, 1, 1, 1, 1, 3])},
         "'tags': expected the offsets of a bag as an int64 tensor"),
        ({"cart": Bag(torch.zeros(3, dtype=torch.int64), torch.tensor([0, 1, 1, 1, 1, 3]),
                      torch.ones(2))}, "'cart': a bag of 3 ids has 6 offsets and 2 weights"),
    ],
)  # fmt: skip
def test_ids_that_are_not_what_the_module_reads_are_named(change, message):
    ids = {name: part for name, part in (draw() | change).items() if part is not None}
    for module in (soft(), FixedEmbedding([9, 4, 6], 3, features=FEATURES)):
        with pytest.raises(ValueError, match=message):
            module(ids)


@pytest.mark.parametrize(
    ("feature", "table", "rows"),
    [("user_id", "user_id", 6), ("item_id", "item_id", 9), ("cart", "item_id", 9),
     ("tags", "tags", 4)],
)  # fmt: skip
@pytest.mark.parametrize("bad", [-1, "V"])
def test_an_id_out_of_range_is_named_with_its_table(feature, table, rows, bad):
    ids = draw()
    bad = rows if bad == "V" else bad
    part = ids[feature]
    (part.values if isinstance(part, Bag) else part)[1] = bad
    message = rf"table '{table}': id {bad} is not in \[0, {rows - 1}\]"
    granted = GrantedEmbedding([9, 4, 6], DIMS, features=FEATURES)
    for module in (soft(), FixedEmbedding([9, 4, 6], 3, features=FEATURES), granted):
        with pytest.raises(IndexError, match=message):
            module(ids)


def test_features_and_tables_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="num_embeddings has 2 tables; the features name 3: item"):
        SoftEmbedding([9, 4], DIMS, features=FEATURES)
    shared = SoftEmbedding([9], DIMS, features=["a", Sparse(column="b", table="a")])
    with pytest.raises(ValueError, match="features share a table here: give ids by the name"):
        shared(torch.zeros(3, 2, dtype=torch.int64))
    bags = FixedEmbedding([9], 3, features=[BagFeature(column="tags")])
    with pytest.raises(ValueError, match="some features are bags: give ids by the name"):
        bags(torch.zeros(3, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match="the module names no features"):
        SoftEmbedding([9], DIMS)({"user_id": torch.zeros(3, dtype=torch.int64)})
    with pytest.raises(TypeError, match="by the name of their feature; got"):
        shared([1, 2])


def test_a_mix_that_does_not_fit_is_named():
    module, ids = soft(), draw()
    mix = draw_mix()
    with pytest.raises(ValueError, match="table 'tags' has no mix; there are item_id, user_id"):
        module(ids, {t: mix[t] for t in ("item_id", "user_id")})
    with pytest.raises(ValueError, match="mix of table 'tags' to have 2 columns"):
        module(ids, mix | {"tags": torch.ones(4, 3, dtype=torch.float64)})
    with pytest.raises(RuntimeError, match=r"weights of dtype torch.float64 but got torch.float32"):
        module(ids, mix | {"tags": torch.ones(4, 2)})
    with pytest.raises(ValueError, match=r"weights of shape \[5, 5, 2\]"):
        module(ids, torch.ones(5, 3, 2, dtype=torch.float64))


def test_no_event_and_only_empty_bags():
    none = torch.zeros(0, dtype=torch.int64)
    empty = dict.fromkeys(("user_id", "item_id"), none) | {
        name: Bag(none, torch.zeros(1, dtype=torch.int64))
        for name in ("tags", "cart", "prev_items")
    }
    for module in (soft(norm="none"), FixedEmbedding([9, 4, 6], 3, features=FEATURES)):
        assert module(empty).shape == (0, len(FEATURES), 3)
    ids = draw() | {"tags": Bag(none, torch.zeros(EVENTS + 1, dtype=torch.int64))}
    assert not soft(norm="none")(ids)[:, 1].any()
