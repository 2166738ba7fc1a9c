"""Networks that several threads read at once, as if one after the other; threads of scores."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

import transfer_metrics as tm
import transfer_metrics.statistics
import transfer_metrics.threads
from transfer_metrics.metrics.base import METRICS
from transfer_metrics.progress import WholeRun, progress_bar
from transfer_metrics.threads import running_with, side_by_side

THREADS = 4
Y = np.arange(120) % 3
X = np.random.default_rng(0).normal(size=(120, 3, 12, 12)).astype(np.float32)
X[:, :, :4] += Y[:, None, None, None] * 0.5


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    made = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Dropout(0.3), nn.Linear(8, 5),
    )  # fmt: skip
    made[0].weight.requires_grad_(False)
    return made


def state(module: nn.Module) -> list[object]:
    parts = list(module.modules())
    hooks = [len(p._forward_hooks) + len(p._forward_pre_hooks) for p in parts]
    tensors = [(id(t), t.requires_grad) for t in (*module.parameters(), *module.buffers())]
    return [[p.training for p in parts], hooks, tensors, ["forward" in vars(p) for p in parts]]


def ranked(module):
    table = tm.rank_models(module, (X, Y), progress=False, cache="never")
    return [(r.layer, r.metric, r.value, r.error) for r in table]


def extracted(module):
    return tm.extract(module, (X, Y), progress=False, batch_size=16)["2"].tolist()


def listed(module):
    return tm.list_layers(module, "*", example=torch.zeros(2, 3, 12, 12))


def fingerprinted(module):
    return tm.load_model(module).fingerprint


def probed(module):
    return tm.LinearProbe().fit(module, (X, Y)).predict(X).tolist()


def tuned(module):
    return tm.FineTune(lr=0.01, epochs=2, progress=False).fit(module, (X, Y)).history_[-1]["loss"]


def in_threads(work, modules):
    with ThreadPoolExecutor(THREADS) as pool:
        return [future.result() for future in [pool.submit(work, module) for module in modules]]


WORK = [ranked, extracted, listed, fingerprinted, probed, tuned]


@pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__)
def test_one_network_in_several_threads_gives_what_it_gives_alone(work):
    module = network()
    expected, before = work(module), state(module)
    assert in_threads(work, [module] * THREADS) == [expected] * THREADS
    assert state(module) == before


def test_all_kinds_of_work_on_one_network_at_once():
    module = network()
    expected, before = [work(module) for work in WORK], state(module)
    with ThreadPoolExecutor(len(WORK)) as pool:
        found = [future.result() for future in [pool.submit(work, module) for work in WORK]]
    assert found == expected
    assert state(module) == before


@pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__)
def test_networks_of_their_own_in_several_threads(work):
    modules = [network(seed) for seed in range(THREADS)]
    assert in_threads(work, modules) == [work(module) for module in modules]


def test_networks_that_share_parts_wait_for_each_other():
    backbone = network()[:5]
    modules = [nn.Sequential(*backbone, nn.Linear(8, k)) for k in (2, 3, 4)] + [backbone]
    before = state(backbone)
    assert in_threads(ranked, modules) == [ranked(module) for module in modules]
    assert state(backbone) == before


def test_a_network_in_use_serves_several_threads():
    served = tm.Head2Toe(keep=0.5).fit(network(), (X, Y)).network()
    parts = np.array_split(X, 24)
    batches = [torch.from_numpy(part) for part in parts]
    with torch.no_grad():
        expected = [served(batch) for batch in batches]
        with ThreadPoolExecutor(THREADS) as pool:
            found = list(pool.map(lambda batch: torch.no_grad()(served)(batch), batches))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_an_interrupted_ranking_leaves_the_network_as_it_was(monkeypatch):
    """Also while the exception is kept, as a future does, with the frames that it came through."""
    module = network()
    before = state(module)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("transfer_metrics.statistics.statistics.Statistics.of", interrupted)
        with pytest.raises(KeyboardInterrupt) as kept:
            tm.rank_models(module, (X, Y), stream=True, progress=False, cache="never")
    assert state(module) == before
    assert in_threads(extracted, [module]) == [extracted(module)]
    assert kept.traceback


def test_a_bar_of_another_thread_is_none_of_this_run():
    def drawn():
        with progress_bar("elsewhere", 4, shown=False) as bar:
            bar.update(4)

    with WholeRun("run", shown=False) as run:
        run.expect(1.0)
        with run.step("here", 1.0):
            in_threads(lambda _: drawn(), [None])
            assert run.done == 0.0
            drawn()
            assert run.done == 1.0


def test_small_scores_take_one_thread_and_large_ones_all_there_are():
    used = []

    @tm.register_metric("threads_of_torch")
    def threads_of_torch(moments):
        used.append(torch.get_num_threads())
        return 0.0

    rng = np.random.default_rng(0)
    try:
        with running_with(2):
            for n, dim in ((200, 20), (2000, 900)):
                X, y = rng.normal(size=(n, dim)).astype(np.float32), np.arange(n) % 2
                tm.score(X, y, metrics="threads_of_torch")
                threads_of_torch(X, y)
            assert torch.get_num_threads() == 2
    finally:
        METRICS.unregister("threads_of_torch")
    assert used == [1, 1, 2, 2]


def test_what_reads_a_source_head_goes_through_its_rows_in_one_thread():
    used = []

    @tm.register_metric("threads_of_head", requires="source")
    def threads_of_head(joint):
        used.append(torch.get_num_threads())
        return 0.0

    probabilities = np.full((3000, 1000), 1e-3, np.float32)
    y = np.arange(3000) % 2
    try:
        with running_with(2):
            tm.score(probabilities, y, metrics="threads_of_head")
            threads_of_head(probabilities, y)
            assert torch.get_num_threads() == 2
    finally:
        METRICS.unregister("threads_of_head")
    assert used == [1, 1]


def test_classes_of_few_examples_are_gone_through_in_one_thread(monkeypatch):
    used = {}

    def noted(n, dim, classes):
        used[n, dim, classes] = inside(n, dim, classes)
        return used[n, dim, classes]

    inside = transfer_metrics.threads.threads_for_classes
    for user in ("statistics.moments", "metrics.transrate"):
        monkeypatch.setattr(f"transfer_metrics.{user}.threads_for_classes", noted)
    rng, seen = np.random.default_rng(0), []
    of_rows = transfer_metrics.statistics.Scatter.of_rows

    def of_rows_noted(rows):
        seen.append((len(rows), torch.get_num_threads()))
        return of_rows(rows)

    monkeypatch.setattr(transfer_metrics.statistics.Scatter, "of_rows", of_rows_noted)
    X, y = rng.normal(size=(6000, 600)), np.arange(6000) % 100
    with running_with(2):
        tm.transrate(X, y)
        assert torch.get_num_threads() == 2
    assert set(used) == {(6000, 600, 100)}
    assert {threads for rows, threads in seen if rows == 60} == {1}
    assert {threads for rows, threads in seen if rows == 6000} == {2}


@pytest.mark.integration
@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_the_command_line_lets_threads_sleep_unless_the_user_says_otherwise(given, expected):
    code = (
        "import os, sys; from transfer_metrics.__main__ import main; assert 'torch' not in "
        "sys.modules; main(['list', 'heads']); print(os.environ.get('GOMP_SPINCOUNT'))"
    )
    env = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run([sys.executable, "-c", code], env=env | given, capture_output=True)
    assert done.stdout.split()[-1].decode() == expected, done.stderr


@pytest.mark.integration
@pytest.mark.parametrize(
    ("given", "expected"), [({}, "1"), ({"OMP_NUM_THREADS": "3"}, "3"), (None, "None")]
)
def test_the_command_line_takes_no_more_threads_than_cores_are_granted(given, expected):
    cores = len(os.sched_getaffinity(0))
    if cores == 1:
        pytest.skip("a machine of one core grants no fewer")
    code = (
        "import os; from transfer_metrics.__main__ import main; "
        "main(['list', 'metrics', '--json']); print(os.environ.get('OMP_NUM_THREADS'))"
    )
    env = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    if given is not None:
        env |= {"LOKY_MAX_CPU_COUNT": "1"} | given
    argv = [sys.executable, "-c", code]
    ended = subprocess.run(argv, env=env, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == expected


def test_limits_that_overlap_are_given_back_by_the_last(monkeypatch):
    """Two threads of a program score at once; the one that came second leaves last."""

    class Blas:
        threads = 4

        def limit(self, limits, user_api=None):
            before, self.threads = self.threads, limits
            return Limit(self, before)

    class Limit:
        def __init__(self, blas, before):
            self.blas, self.before = blas, before

        def restore_original_limits(self):
            self.blas.threads = self.before

        __enter__ = lambda self: self  # noqa: E731
        __exit__ = lambda self, *_: self.restore_original_limits()  # noqa: E731

    blas = Blas()
    monkeypatch.setattr("transfer_metrics.threads._controller", lambda: blas)
    entered, left = threading.Event(), threading.Event()

    def second():
        with transfer_metrics.threads.threads_for(1):
            entered.set()
            left.wait(10)

    with ThreadPoolExecutor(1) as pool:
        with transfer_metrics.threads.threads_for(1):
            other = pool.submit(second)
            assert entered.wait(10)
        assert blas.threads == 1
        left.set()
        other.result()
    assert blas.threads == 4


def test_blocks_side_by_side_come_in_their_order_each_on_one_thread():
    met = threading.Barrier(2)

    def work(block):
        if block < 2:
            met.wait(10)  # one after the other, nobody would come
        return block**2, torch.get_num_threads()

    with running_with(2):
        assert side_by_side(work, range(7)) == [(i**2, 1) for i in range(7)]
        assert torch.get_num_threads() == 2
        with pytest.raises(ZeroDivisionError):
            side_by_side(lambda block: 1 // (block - 5), range(7))
        assert torch.get_num_threads() == 2
    with running_with(1):
        here = threading.get_ident()
        assert side_by_side(lambda _: threading.get_ident(), range(7)) == [here] * 7
