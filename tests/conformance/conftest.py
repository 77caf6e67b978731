"""Components of the registry, and batches and parameters that suit any of them.

A family that enters the registry is tested without a change here: its response is found by
asking it what it accepts, its parameters by fitting that response.
"""

import dataclasses
import functools
import itertools
import typing
from types import SimpleNamespace

import numpy as np
import pytest

from mixexperts._batch import Batch, Theta
from mixexperts._registry import all_components
from mixexperts.em import Model
from mixexperts.errors import InvalidResponseError, UnsupportedCombinationError
from mixexperts.gates import DSelectK, Softmax, TopK, Tree

N_EXPERTS = 3
MOST_EXPERTS = 7
N_UNITS = 40
_FALL, _FAR = 3.0, 3.0
# Settings that no single switch makes.
MORE = {
    "gate": (
        Softmax(temperature=2.0),
        Softmax(activation="tanh", temperature=0.5),
        Softmax(activation="tanh", transform="sin", fit_intercept=False),
        Tree((0, 1, 2)),
        TopK(3),
        DSelectK(1),
    ),
}
KINDS = ("plain", "weights", "offset", "units", "log_prior", "everything")


def _choices(hint):
    """What a field may be, if its type is a choice, alone or among others."""
    hints = (hint, *typing.get_args(hint))
    return [v for h in hints if typing.get_origin(h) is typing.Literal for v in typing.get_args(h)]


def _variants(family):
    """Each class with its defaults, with each of its switches turned, each choice made.

    A choice that the class refuses without others is left out.
    """
    found = []
    for name, cls in all_components(family).items():
        made = cls.example(MOST_EXPERTS) if hasattr(cls, "example") else cls()
        found.append(pytest.param(made, id=name))
        if dataclasses.is_dataclass(cls):
            hints = typing.get_type_hints(cls)
            for item in dataclasses.fields(cls):
                others = ()
                if isinstance(item.default, bool):
                    others = (not item.default,)
                else:
                    others = [v for v in _choices(hints[item.name]) if v != item.default]
                for value in others:
                    try:
                        turned = dataclasses.replace(made, **{item.name: value})
                    except ValueError:
                        continue
                    found.append(pytest.param(turned, id=f"{name}-{item.name}={value}"))
    return found + [pytest.param(value, id=repr(value)) for value in MORE.get(family, ())]


def pytest_generate_tests(metafunc):
    wanted = [name for name in ("gate", "expert", "kind") if name in metafunc.fixturenames]
    if {"gate", "expert"} <= set(wanted):
        few = metafunc.definition.get_closest_marker("few_pairs") is not None
        metafunc.parametrize(wanted, _covering("kind" in wanted, few))
    else:
        for name in wanted:
            metafunc.parametrize(name, KINDS if name == "kind" else _variants(name))
    if "penalty" in metafunc.fixturenames:
        metafunc.parametrize("penalty", _variants("penalty"))


@functools.cache
def _covering(with_kinds, few=False):
    """Gates and experts, and kinds of batch, so that every two of them meet somewhere.

    The full product grows with the number of families times that of gates. Here each expert
    meets each gate once, each variant of either meets every kind of batch, and of the other
    side the common ones in turn.
    """
    gates, experts = _variants("gate"), _variants("expert")
    common_gates = [g for g in gates if g.id in ("softmax", "constant")]
    common_experts = [e for e in experts if e.id in ("gaussian", "poisson")]
    kinds = KINDS if with_kinds else (None,)
    found = {}

    def add(gate, expert, kind):
        parts = (gate, expert) if kind is None else (gate, expert, pytest.param(kind, id=kind))
        try:
            Model(gate.values[0], expert.values[0])
        except UnsupportedCombinationError:
            return
        name = "-".join(part.id for part in parts)
        found[name] = pytest.param(*(part.values[0] for part in parts), id=name)

    if few:
        plain = [[p for p in side if "=" not in p.id] for side in (gates, experts)]
        for pairs in ((common_gates, plain[1]), (plain[0], common_experts)):
            for gate, expert in itertools.product(*pairs):
                add(gate, expert, kinds[-1])
        return list(found.values())
    for i, expert in enumerate(experts):
        for j, kind in enumerate(kinds):
            add(common_gates[(i + j) % len(common_gates)], expert, kind)
    for i, gate in enumerate(gates):
        for j, kind in enumerate(kinds):
            add(gate, common_experts[(i + j) % len(common_experts)], kind)
    for gate in (g for g in gates if "=" not in g.id):
        for expert in (e for e in experts if "=" not in e.id):
            add(gate, expert, kinds[-1])
    return list(found.values())


@pytest.fixture
def rng():
    return np.random.default_rng(20260901)


def _responses(expert, rng, n):
    """Responses from the most to the least general, for a family to choose from."""
    if expert.takes_classes == "many":  # counts would be codes of as many classes
        yield rng.integers(0, 3, size=n).astype(float)
    level, kind = np.random.default_rng(n).standard_normal(n), np.arange(n) % 5
    lower = np.where(kind == 3, -np.inf, level - 0.4 * (kind == 2))
    upper = np.where(kind == 4, np.inf, level + 0.5 * (kind == 2))
    bounds = np.column_stack([lower, upper])
    yield bounds
    window = np.where(kind == 1, -np.inf, level - 3.0), np.where(kind == 2, np.inf, level + 2.5)
    yield np.column_stack([level, *window])
    yield rng.standard_normal(n)
    yield rng.gamma(2.0, size=n)
    zero = rng.uniform(size=n) < 0.15  # counts with spread and zeros of their own
    yield np.where(zero, 0.0, rng.negative_binomial(3, 0.5, size=n))
    yield rng.beta(2.0, 2.0, size=n)
    pair = rng.standard_normal((n, 2))
    pair[:, 1] += 0.7 * pair[:, 0]
    yield pair
    yield np.column_stack([rng.standard_normal(n), rng.poisson(3.0, size=n)])
    yield np.column_stack([rng.integers(0, 6, size=n), rng.integers(0, 6, size=n)]).astype(float)
    yield rng.integers(0, 2, size=n).astype(float)


def _accepted(expert, rng, n):
    for y in _responses(expert, rng, n):
        try:
            expert.check_response(y)
        except InvalidResponseError:
            continue
        return y
    raise AssertionError(f"no candidate response suits {expert!r}; add one to _responses")


def _design(rng, n, intercept):
    columns = rng.standard_normal((n, 2))
    return np.column_stack([np.ones(n), columns]) if intercept else columns


def make_batch(expert, gate, kind, rng, n_units=N_UNITS, n_experts=N_EXPERTS):
    """A batch that uses the optional parts that ``kind`` names."""
    every = kind == "everything"
    unit = None
    n = n_units
    if kind == "units" or every:
        unit = np.repeat(np.arange(n_units), rng.integers(1, 4, size=n_units))
        n = len(unit)
    weight = np.ones(n_units)
    if kind == "weights" or every:
        weight = rng.uniform(0.2, 3.0, n_units)
        weight[::7] = 0.0
    features = gate.uses_features
    design = _design(rng, n, expert.fit_intercept) if expert.uses_features else np.empty((n, 0))
    own = expert.designs_of(rng.standard_normal((n, 2)), 0.0, 1.0)
    y = _accepted(expert, rng, n)
    if every and expert.allows_missing:
        y[1::9, 0] = y[3::7, -1] = np.nan
        y[np.isnan(y).all(axis=1)] = 1.0
    return Batch(
        y=y,
        designs={"mean": design, **own},
        Z=_design(rng, n_units, gate.fit_intercept) if features else np.empty((n_units, 0)),
        weight=weight,
        unit=unit,
        offset=0.5 * rng.standard_normal(n) if kind == "offset" or every else None,
        log_prior=rng.normal(size=(n_units, n_experts)) if kind == "log_prior" or every else None,
    )


def redraw(model, theta, batch, rng):
    """The batch with responses drawn from the model at ``theta``; drawn anew till all are sampled.

    Where the gate models the features, and nothing else speaks of the experts, these too.
    """
    drawn, label = _draw(model, theta, batch, rng)
    while not (sampled := _sampled(model, drawn)).all():
        again, other = _draw(model, theta, batch, rng)
        label = np.where(sampled, label, other)
        rows = sampled if batch.unit is None else sampled[batch.unit]
        drawn = dataclasses.replace(
            drawn, y=np.where(rows if drawn.y.ndim == 1 else rows[:, None], drawn.y, again.y)
        )
    return drawn, label


def _sampled(model, batch):
    """Units of which no row is refused."""
    refused = ~model.expert.admits(batch.y)
    return batch.sum_units(refused[:, None].astype(float))[:, 0] == 0.0


def _draw(model, theta, batch, rng):
    if model.gate.objective == "joint" and batch.log_prior is None:
        label = rng.choice(
            len(theta.gate["log_weight"]), size=batch.n_units, p=np.exp(theta.gate["log_weight"])
        )
        batch = dataclasses.replace(batch, Z=model.gate.sample(theta.gate, label, rng))
        return _with_response(model, theta, batch, label, rng), label
    score = model.gate.log_prob(theta.gate, batch)
    if batch.log_prior is not None:
        score = score + batch.log_prior
    bound = np.cumsum(np.exp(score - np.logaddexp.reduce(score, axis=1, keepdims=True)), axis=1)
    label = (rng.random(batch.n_units)[:, None] >= bound[:, :-1]).sum(axis=1)
    return _with_response(model, theta, batch, label, rng), label


def _with_response(model, theta, batch, label, rng):
    row_label = label if batch.unit is None else label[batch.unit]
    drawn = model.expert.sample(theta.expert, batch, row_label, rng)
    return dataclasses.replace(batch, y=model.expert.observed(batch.y, drawn))


def make_theta(model, batch, rng, n_experts=N_EXPERTS, jitter=0.3):
    """Parameters in general position: fitted to thirds of the response, then moved."""
    y = batch.y if batch.y.ndim == 1 else model.expert.working_response(batch)  # (n,) or (n, d)
    level = batch.sum_units(y.reshape(len(y), -1))[:, 0]
    rank = np.argsort(np.argsort(level + 1e-6 * rng.standard_normal(batch.n_units)))
    hard = np.eye(n_experts)[rank * n_experts // batch.n_units]
    resp = 0.9 * hard + 0.1 / n_experts
    theta = Theta(
        model.gate.init_params(batch, resp, rng), model.expert.init_params(batch, resp, rng)
    )
    packed = model.pack(theta)
    direction = rng.standard_normal(packed.shape)
    for _ in range(20):
        if not _at_an_edge(model, packed, jitter * direction, theta, batch):
            break
        jitter /= 2
    return model.unpack(packed + jitter * direction, theta)


def _at_an_edge(model, packed, move, theta, batch):
    """Whether going on leaves what an expert can reach: some links end where eta is zero."""
    points = [model.unpack(packed + share * move, theta) for share in (1.0, 0.5, 1.5)]
    here, *there = (model.expert.log_prob(point.expert, batch) for point in points)
    with np.errstate(invalid="ignore"):  # rows that are impossible everywhere
        if any((np.abs(here - far) > _FALL * (1.0 + np.abs(far))).any() for far in there):
            return True
    means = np.stack([model.expert.mean(point.expert, batch) for point in points])
    return np.abs(means[np.isfinite(means)]).max() > _FAR * (1.0 + np.abs(batch.y).max())


def separated_theta(model, batch, rng, n_experts=2, tries=30):
    """Parameters whose experts can be told apart: the clearest of many in general position."""
    best, clearest = None, np.inf
    for _ in range(tries):
        theta = make_theta(model, batch, rng, n_experts, jitter=1.0)
        drawn, _ = redraw(model, theta, batch, rng)
        joint = model.log_joint(theta, drawn)
        resp = np.exp(joint - np.logaddexp.reduce(joint, axis=1, keepdims=True))
        entropy = -np.sum(resp * np.log(np.maximum(resp, 1e-300))) / len(resp)
        if resp.mean(axis=0).min() > 0.25 and entropy < clearest:
            best, clearest = theta, entropy
    assert best is not None
    return best


def an_order(model, n_experts=N_EXPERTS):
    """Another order of the experts, in which each keeps a place of its kind."""
    labels = model.expert.interchangeable(n_experts)
    order = np.arange(n_experts)
    for label in np.unique(labels):
        order[labels == label] = np.roll(order[labels == label], 1)
    return order


def join(batches):
    """One batch out of several, unit after unit."""
    first = batches[0]
    unit = None
    if first.unit is not None:
        shifts = np.cumsum([0] + [b.n_units for b in batches[:-1]])
        unit = np.concatenate([b.unit + s for b, s in zip(batches, shifts, strict=True)])

    def stack(get):
        return None if get(first) is None else np.concatenate([get(b) for b in batches])

    return Batch(
        y=stack(lambda b: b.y),
        designs={name: stack(lambda b, name=name: b.designs[name]) for name in first.designs},
        Z=stack(lambda b: b.Z),
        weight=stack(lambda b: b.weight),
        unit=unit,
        offset=stack(lambda b: b.offset),
        log_prior=stack(lambda b: b.log_prior),
    )


def _map_arrays(value, change):
    if isinstance(value, np.ndarray):
        return change(value)
    if isinstance(value, dict):
        return {name: _map_arrays(item, change) for name, item in value.items()}
    if isinstance(value, Batch | Theta):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return type(value)(**_map_arrays(fields, change))
    return value


def frozen(value):
    """A copy whose arrays refuse to be written to."""

    def lock(array):
        copy = array.copy()
        copy.flags.writeable = False
        return copy

    return _map_arrays(value, lock)


def as_float32(value):
    return _map_arrays(value, lambda a: a.astype(np.float32) if a.dtype == np.float64 else a)


@pytest.fixture
def case(rng):
    """Builds (model, theta, batch) for a gate and an expert; the response follows the model."""

    def build(gate, expert, kind="everything", **options):
        model = Model(gate, expert, **{k: options.pop(k) for k in list(options) if "penalty" in k})
        n_experts = options.get("n_experts", N_EXPERTS)
        batch = make_batch(expert, gate, kind, rng, **options)
        theta = make_theta(model, batch, rng, n_experts)
        batch, _ = redraw(model, theta, batch, rng)
        return frozen_case(model, theta, batch)

    def frozen_case(model, theta, batch):
        return model, frozen(theta), frozen(batch)

    return build


@pytest.fixture
def tools():
    """Helpers shared by the files of this folder."""
    return SimpleNamespace(
        an_order=an_order,
        join=join,
        frozen=frozen,
        as_float32=as_float32,
        redraw=redraw,
        separated_theta=separated_theta,
    )
