"""What all tests share: one seed, a fresh Keras, a backend, no display."""

import os
import zlib

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "Agg")

import hypothesis
import keras
import numpy as np
import pytest

pytest.register_assert_rewrite("tests.helpers.stat_checks")
# Scripts that tests run in processes of their own.
collect_ignore = ["scripts"]

_FIXED_SEED = 20190213
_ANY = "any"


def pytest_addoption(parser):
    parser.addoption(
        "--vary-seed",
        nargs="?",
        const=_ANY,
        default=None,
        metavar="SEED",
        help="draw the tests' random numbers from SEED, or from a new seed",
    )


def pytest_configure(config):
    given = config.getoption("--vary-seed")
    if given is None:
        config.seed = _FIXED_SEED
    elif given == _ANY:
        config.seed = int.from_bytes(os.urandom(4), "little")
    else:
        config.seed = int(given)
    if given is not None:
        # For the processes of pytest-xdist, which read the option anew.
        config.option.vary_seed = str(config.seed)
    hypothesis.settings.register_profile(
        "house", deadline=None, derandomize=given is None, print_blob=True
    )
    hypothesis.settings.load_profile("house")
    if given is not None and config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(config.seed)


def pytest_report_header(config):
    return _how_to_repeat(config)


def pytest_terminal_summary(terminalreporter, config):
    # "-q" hides the header.
    if config.getoption("--vary-seed") is not None:
        terminalreporter.write_line(_how_to_repeat(config))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    if report.failed:
        report.sections.append(("Seed", _how_to_repeat(item.config)))
    return report


def _how_to_repeat(config):
    return f"random numbers: repeat with --vary-seed={config.seed}"


@pytest.fixture
def seed(request):
    """An integer, another one in each test; fixed but under --vary-seed."""
    name = zlib.crc32(request.node.nodeid.encode())
    return int(
        np.random.SeedSequence([request.config.seed, name]).generate_state(1)[0]
    )


@pytest.fixture
def rng(seed):
    return np.random.default_rng(seed)


@pytest.fixture(autouse=True)
def fresh_keras(seed):
    """Layers are named from "dense" on, and drawn from the seed, in each."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(seed)
