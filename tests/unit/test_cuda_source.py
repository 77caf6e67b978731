"""The CUDA kernels without a GPU: their source compiled for this machine, and by NVRTC.

``tests/_devices.py`` says how a kernel runs here. It must give what the array API pass gives.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from mixexperts.kernels import array_api, cuda
from mixexperts.kernels.cuda import Plan

_tests = Path(__file__).parents[1]


def _load(name):
    spec = importlib.util.spec_from_file_location(f"_mixexperts{name}", _tests / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


devices, nvrtc = _load("_devices"), _load("_nvrtc")

needs_compiler = pytest.mark.skipif(devices.compiler is None, reason="no C++ compiler here")
PROCESSORS = 2
TOL = 1e-12

# family, softmax, K, columns of the fused kernel, columns of y, offset
PLANS = [
    ("gaussian", True, 3, 11, 1, False),
    ("gaussian", True, 4, 16, 1, True),
    ("gaussian", False, 2, 8, 1, True),
    ("gaussian", True, 1, 1, 1, False),
    ("poisson", True, 3, 9, 1, True),
    ("poisson", False, 4, 3, 1, False),
    ("binomial", True, 4, 7, 2, True),
    ("binomial", False, 3, 12, 1, False),
    ("gaussian", True, 8, 0, 1, True),
    ("poisson", True, 2, 0, 1, False),
    ("binomial", False, 5, 0, 2, False),
]
NAMES = [f"{f}-{'softmax' if s else 'constant'}-K{k}-p{p}" for f, s, k, p, *_ in PLANS]


def make_plan(family, softmax, k, p, y_columns, offset):
    constant = family == "poisson" or (family == "binomial" and y_columns == 2)
    return Plan(family, softmax, k, p, y_columns, offset, constant)


def make_case(plan, n, seed=0):
    """Rows and parameters for a plan: rows, coef, aux, gate values."""
    rng = np.random.default_rng(seed)
    p, k = plan.n_columns or 5, plan.n_experts
    X = np.ascontiguousarray(rng.standard_normal((n, p)))
    weight = rng.uniform(0.0, 2.0, n)
    weight[::7] = 0.0
    y = {
        "gaussian": lambda: rng.standard_normal(n),
        "poisson": lambda: rng.poisson(3.0, n).astype(float),
        "binomial": lambda: (
            rng.integers(0, 2, n).astype(float)
            if plan.response_columns == 1
            else rng.integers(0, 6, (n, 2)).astype(float)
        ),
    }[plan.family]()
    offset = rng.standard_normal(n) if plan.offset else None
    rows = array_api.Rows(np, y, X, X, weight, offset)
    rows.log_constant(array_api.FAMILIES[plan.family], plan.family)
    coef = 0.5 * rng.standard_normal((k, p))
    aux = rng.uniform(0.5, 2.0, k) if plan.family == "gaussian" else None
    gate = np.log(rng.dirichlet(np.ones(k)))
    if plan.softmax:
        gate = np.vstack([rng.standard_normal((k - 1, p)), np.zeros((1, p))])
    return rows, coef, aux, gate


def expected(plan, rows, coef, aux, gate):
    part = array_api.SoftmaxGate if plan.softmax else array_api.ConstantGate
    return array_api.block_sums(rows, part(gate), plan.family, coef, aux)


def by_kernel(plan, rows, coef, aux, gate):
    module = devices.HostModule(plan, [])
    parameters = plan.parameters(coef, aux, gate)
    if plan.n_columns:
        return plan.unpack(cuda.run_fused(module, plan, rows, parameters, PROCESSORS))
    eta = rows.X @ coef.T
    eta = eta if rows.offset is None else eta + rows.offset[:, None]
    score = rows.Z @ gate[:-1].T if plan.n_free else None
    sums, grams, crosses = cuda.run_elementwise(
        module, plan, rows, parameters, PROCESSORS, eta, score
    )
    return {
        **plan.unpack_sums(sums),
        **array_api.products(rows, grams, crosses, plan.n_experts),
    }


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert np.shape(found[name]) == np.shape(value), name
        scale = np.abs(value).max(initial=1.0)
        assert_allclose(found[name], value, rtol=0, atol=TOL * scale, err_msg=name)


@needs_compiler
@pytest.mark.parametrize("options", PLANS, ids=NAMES)
def test_sums_are_the_same(options):
    plan = make_plan(*options)
    case = make_case(plan, 900)
    assert_same(by_kernel(plan, *case), expected(plan, *case))


@needs_compiler
@pytest.mark.parametrize("n", [1, 3, 127, 128, 129, 768, 769, 2000])
@pytest.mark.parametrize("options", [PLANS[0], PLANS[8]], ids=["fused", "elementwise"])
def test_any_number_of_rows(options, n):
    """Tiles of 128 rows over a grid of 4 or 6 blocks: short tiles, idle blocks, several rounds."""
    plan = make_plan(*options)
    case = make_case(plan, n, seed=n)
    assert_same(by_kernel(plan, *case), expected(plan, *case))


@needs_compiler
@pytest.mark.parametrize("options", [PLANS[0], PLANS[8]], ids=["fused", "elementwise"])
def test_the_same_bits_each_time(options):
    plan = make_plan(*options)
    case = make_case(plan, 700)
    left, right = by_kernel(plan, *case), by_kernel(plan, *case)
    for name, value in left.items():
        assert np.array_equal(value, right[name]), name


FAULTS = {
    "copies not waited for": ("    wait_copies();\n", ""),
    "tile not waited for": ("    __syncthreads();  // the tile", "    // the tile"),
    "weights not waited for": ("sums, wv);\n    __syncthreads();", "sums, wv);"),
    "warps not in turn": ("    __syncthreads();\n    if (stripe != s)", "    if (stripe != s)"),
    "one buffer": ("x + (buffer ^ 1) * T * S", "x + buffer * T * S"),
}


@needs_compiler
@pytest.mark.parametrize("fault", FAULTS)
def test_a_missing_barrier_would_show(fault, monkeypatch):
    """What these tests can see of the order of threads."""
    right, wrong = FAULTS[fault]
    assert cuda.SOURCE.count(right) == 1
    monkeypatch.setattr(cuda, "SOURCE", cuda.SOURCE.replace(right, wrong))
    plan = make_plan(*PLANS[5])
    case = make_case(plan, 900)
    with pytest.raises(AssertionError):
        assert_same(by_kernel(plan, *case), expected(plan, *case))


@needs_compiler
def test_rows_without_support():
    plan = make_plan(*PLANS[0])
    rows, coef, aux, gate = make_case(plan, 200)
    rows.y[14] = rows.y[15] = 1e200
    assert rows.weight[14] == 0.0  # counts for nothing
    found = by_kernel(plan, rows, coef, aux, gate)
    assert found["log_likelihood"] == -np.inf
    assert np.isfinite(found["mass"]).all()
    rows.weight[15] = 0.0
    found = by_kernel(plan, rows, coef, aux, gate)
    rest = rows.weight > 0
    kept = array_api.Rows(np, rows.y[rest], rows.X[rest], rows.X[rest], rows.weight[rest])
    wanted = expected(plan, kept, coef, aux, gate)["log_likelihood"]
    assert found["log_likelihood"] == pytest.approx(wanted, rel=1e-13)


@needs_compiler
def test_an_expert_out_of_reach_has_no_mass():
    plan = make_plan(*PLANS[0])
    rows, coef, aux, gate = make_case(plan, 300)
    coef[1, 0] = 1e150
    with np.errstate(all="ignore"):
        wanted = expected(plan, rows, coef, aux, gate)
    found = by_kernel(plan, rows, coef, aux, gate)
    assert found["mass"][1] == wanted["mass"][1] == 0.0
    assert found["log_likelihood"] == pytest.approx(wanted["log_likelihood"], rel=1e-12)


@needs_compiler
def test_predictors_far_out_stay_numbers():
    for options in (PLANS[4], PLANS[6]):
        plan = make_plan(*options)
        rows, coef, aux, gate = make_case(plan, 64)
        found = by_kernel(plan, rows, 1e3 * coef, aux, gate)
        assert all(np.isfinite(value).all() for value in found.values())


# --- NVRTC --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def library():
    found = nvrtc.library()
    if found is None:
        pytest.skip("no NVRTC here: pip install nvidia-cuda-nvrtc-cu12")
    return found


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize("options", PLANS, ids=NAMES)
def test_compiles(library, architecture, options):
    plan = make_plan(*options)
    code, log = nvrtc.compile_cubin(library, plan.source(), architecture)
    kernels = ["elementwise", "reduce"] + ["fused"] * bool(plan.n_columns)
    assert all(f"'{name}' for '{architecture}'" in log for name in kernels)
    assert b"PARAM" in code
    assert "warning" not in log


def test_compiles_without_tensor_cores(library):
    """Devices before compute capability 8.0 get the elementwise kernel alone."""
    assert cuda.CAPABILITY == 80
    nvrtc.compile_cubin(library, make_plan(*PLANS[9]).source(), "sm_75")


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_registers_of_the_common_case_suffice(library, architecture):
    """Ten features and an intercept, three experts: nothing goes to local memory."""
    _, log = nvrtc.compile_cubin(library, make_plan(*PLANS[0]).source(), architecture)
    spills = [line for line in log.splitlines() if "spill" in line]
    assert len(spills) == 3
    assert all("0 bytes spill stores, 0 bytes spill loads" in line for line in spills)


def test_a_fault_is_seen(library):
    with pytest.raises(RuntimeError, match="error"):
        nvrtc.compile_cubin(library, make_plan(*PLANS[0]).source() + "\nint x = ;", "sm_90")


# --- plans --------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", range(1, cuda.MAX_EXPERTS + 1))
@pytest.mark.parametrize("p", range(1, cuda.MAX_COLUMNS + 1))
def test_shared_memory_of_any_plan_lets_its_blocks_reside(k, p):
    """228 KB of a multiprocessor (H100, H200) less 1 KB per block; 227 KB at most for a block."""
    plan = Plan("binomial", True, k, p, 2, True, True)
    assert plan.resident * (plan.shared_bytes + 1024) <= 228 * 1024
    assert 8 * (3 * k + plan.n_crosses * p) <= 64 * 1024  # constant memory


def test_elementwise_fits_into_static_shared_memory():
    plan = Plan("gaussian", True, cuda.MAX_ELEMENTWISE, 0, 1, False, False)
    assert 8 * plan.n_sums * cuda.THREADS <= 48 * 1024
