"""Settings and fixtures of all tests: backend, seeds, order, CPU times."""

import collections
import gc
import os
import resource
import shlex
import sys
import zlib

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "Agg")
# More threads wait for each other, and spin: matrices are small here, and
# pytest-xdist gives each process a core. NumPy reads this when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

import hypothesis
import numpy as np
import pytest

from tests.helpers import processes

pytest.register_assert_rewrite("tests.helpers.stat_checks")
# Scripts that tests start as processes.
collect_ignore = ["scripts"]

_FIXED_SEED = 20190213
_ANY = "any"
_CPU_BEFORE = pytest.StashKey[float]()


def pytest_addoption(parser):
    parser.addoption(
        "--vary-seed",
        nargs="?",
        const=_ANY,
        default=None,
        metavar="SEED",
        help="draw the tests' random numbers from SEED, or from a new seed",
    )
    parser.addoption(
        "--cpu-times",
        type=int,
        default=0,
        metavar="N",
        help="list the N tests that took the most CPU time, in seconds, with "
        "that of the processes they started",
    )
    parser.addoption(
        "--rows",
        type=int,
        default=0,
        metavar="N",
        help="run N rows at most of each parametrized test",
    )


def pytest_configure(config):
    option = config.getoption("--vary-seed")
    if option is None:
        config.seed = _FIXED_SEED
    elif option == _ANY:
        config.seed = int.from_bytes(os.urandom(4), "little")
    else:
        config.seed = int(option)
    if option is not None:
        # The processes of pytest-xdist read the option again.
        config.option.vary_seed = str(config.seed)
    hypothesis.settings.register_profile(
        "keras_initx",
        deadline=None,
        derandomize=option is None,
        print_blob=True,
    )
    hypothesis.settings.load_profile("keras_initx")
    if option is not None and config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(config.seed)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """One process more than cores, since some tests wait for processes."""
    return len(os.sched_getaffinity(0)) + 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(specs):
    """Forks the processes of pytest-xdist from one that has imported Keras."""
    for spec in specs:
        if spec.popen and not spec.python:
            spec.python = shlex.join(processes.forked_python())


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Gives files that share compiled functions to one process.

    Those of the stable distributions take seconds of compilation.
    """
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            path = super()._split_scope(nodeid)
            room = "distributions"
            return room if path.split("/")[1:2] == [room] else path

    if config.getoption("dist") == "loadfile":
        return Scheduling(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Selects rows, and sorts files by how long they take.

    First come those with most tests that start processes, then those with most
    slow tests. With `--dist loadfile --no-loadscope-reorder`, pytest-xdist
    hands out files in this order, so that none of the long ones is left to one
    process at the end.
    """
    _check_names(items)
    _select_rows(config, items)
    isolated, slow = (
        collections.Counter(
            item.path for item in items if item.get_closest_marker(name)
        )
        for name in ("isolated", "slow")
    )
    items.sort(key=lambda item: (-isolated[item.path], -slow[item.path]))


def _check_names(items):
    """Refuses names that differ between processes, which stops pytest-xdist."""
    for item in items:
        if " at 0x" in item.nodeid:
            raise pytest.UsageError(
                "The name of a test must not hold an address: give ids to "
                f"parametrize. Received: {item.nodeid}"
            )


def _select_rows(config, items):
    rows = config.getoption("--rows")
    if not rows:
        return
    tables = collections.defaultdict(list)
    for item in items:
        tables[item.nodeid.partition("[")[0]].append(item)
    selected = set()
    for table in tables.values():
        # The first, the last, and others at equal distances.
        at = np.linspace(0, len(table) - 1, min(rows, len(table)))
        selected.update(table[int(i)] for i in at)
    config.hook.pytest_deselected(items=[i for i in items if i not in selected])
    items[:] = [item for item in items if item in selected]


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Collects garbage rarely.

    Modules and items, a million objects, are there to stay. The graph of a
    model has ten thousand, which are garbage together or not at all.
    """
    gc.disable()
    result = yield
    gc.enable()
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 5, 10)
    return result


def pytest_report_header(config):
    return _how_to_repeat(config)


def pytest_terminal_summary(terminalreporter, config):
    # "-q" hides the header.
    if config.getoption("--vary-seed") is not None:
        terminalreporter.write_line(_how_to_repeat(config))
    shown = config.getoption("--cpu-times")
    if shown:
        _write_cpu_times(terminalreporter, shown)


def _write_cpu_times(terminalreporter, shown):
    seconds = collections.Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            # Examples in docstrings lie outside the folder of these hooks.
            properties = dict(getattr(report, "user_properties", ()))
            if "cpu" in properties and report.when == "teardown":
                seconds[report.nodeid] = properties["cpu"]
    terminalreporter.section(f"CPU times: {seconds.total():.0f} s in all")
    for name, each in seconds.most_common(shown):
        terminalreporter.write_line(f"{each:8.2f} s  {name}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    item.stash[_CPU_BEFORE] = _cpu_seconds()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    if call.when == "teardown":
        # Reports carry the item's properties from pytest-xdist's processes.
        seconds = _cpu_seconds() - item.stash[_CPU_BEFORE]
        item.user_properties.append(("cpu", seconds))
    report = yield
    if report.failed:
        report.sections.append(("Seed", _how_to_repeat(item.config)))
    return report


def _cpu_seconds():
    """CPU time of this process and of those that have ended."""
    usages = map(
        resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    seconds = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    return seconds + processes.cpu_seconds()


def _how_to_repeat(config):
    return f"random numbers: repeat with --vary-seed={config.seed}"


@pytest.fixture(scope="session", autouse=True)
def quick_graphs():
    """Switches off an optimizer, which takes longer than most graphs run.

    It stays on in the processes that tests start. No operation keeps a stack of
    its own.
    """
    # Not at the top, since the process that only hands out tests loads this.
    import tensorflow as tf

    from tests.helpers import stacks

    stacks.keep_one_stack()
    tf.config.optimizer.set_experimental_options(
        {"disable_meta_optimizer": True}
    )


@pytest.fixture
def seed(request):
    """An integer that differs between tests, fixed without --vary-seed."""
    name = zlib.crc32(request.node.nodeid.encode())
    return int(
        np.random.SeedSequence([request.config.seed, name]).generate_state(1)[0]
    )


@pytest.fixture
def rng(seed):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def frozen_objects():
    """Keeps present objects out of `gc.collect` and `gc.get_objects`.

    To walk through all of them takes half a second.
    """
    gc.freeze()


@pytest.fixture
def no_matplotlib(monkeypatch):
    """Hides Matplotlib: callbacks write no figures, which takes them time."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)


@pytest.fixture(scope="module", autouse=True)
def fresh_kernels():
    """Drops the kernels of TensorFlow's operations, those of functions too."""
    import keras

    keras.utils.clear_session(free_memory=False)


@pytest.fixture(autouse=True)
def fresh_keras(fresh_kernels, seed):
    """Resets Keras's layer names and seeds its random numbers."""
    import keras

    from tests.helpers import kernels

    with kernels.kept():
        keras.utils.clear_session(free_memory=False)
        keras.utils.set_random_seed(seed)
