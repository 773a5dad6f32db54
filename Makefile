# Everything runs in a virtual environment that make builds itself, so that a
# machine needs Python and make, and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The tests of a file share what is compiled, so they run in one process; files
# are handed out in the order of tests/conftest.py.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 \
	--dist loadfile --no-loadscope-reorder

.PHONY: demo test test-quick test-backends test-versions gpu-wheels gpu-check lint docs bench clean

demo: $(VENV)/demo.done
	$(BIN)/keras-initx report --out demo

test: $(VENV)/test.done
	$(PYTEST) -m "not backends"

# Two rows of each table, without the tests that take long or start processes.
test-quick: $(VENV)/test.done
	$(PYTEST) -m "not slow and not isolated and not backends" \
		--rows 2

# What runs on JAX and PyTorch. On Linux, PyPI has PyTorch with several GB of
# CUDA. A build without is preferred where pip finds one, as by
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make test-backends
TORCH ?= torch==2.13.0
test-backends: $(VENV)/torch.done
	$(BIN)/python -m pytest -n 2 -m backends tests/test_backends.py

# Environments of the versions that others have, by the script's names: make
# test-versions VERSIONS="colab oldest". It takes Python 3.11 and 3.13.
VERSIONS ?=
test-versions:
	$(PYTHON) tests/scripts/run_versions.py $(VERSIONS)
	$(PYTHON) tests/scripts/check_resolver.py

# Keras, and what it needs beside JAX or PyTorch, NumPy and SciPy, for a machine
# without a network. `pip download` takes what fits PYTHON, or PIP_PLATFORM="\
# --python-version 3.12 --platform manylinux_2_28_x86_64".
PIP_PLATFORM ?=
gpu-wheels:
	$(PYTHON) -m pip download --quiet --no-deps --only-binary :all: \
		--dest wheels $(PIP_PLATFORM) keras absl-py h5py ml-dtypes namex \
		optree packaging rich markdown-it-py mdurl pygments typing-extensions

# With the PYTHON that has JAX or PyTorch, and not in the virtual environment.
gpu-check:
	$(PYTHON) tests/scripts/check_gpu.py

lint: $(VENV)/test.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The variable silences an advertisement of the theme, not a warning of ours.
docs: $(VENV)/docs.done
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# Not among these: python benchmarks/prediction_peers.py, for packages that are
# installed by hand.
bench: $(VENV)/bench.done
	$(BIN)/python benchmarks/measure.py
	$(BIN)/python benchmarks/measure.py --first
	$(BIN)/python benchmarks/measure.py --shares
	$(BIN)/python benchmarks/measure.py --gradient
	$(BIN)/python benchmarks/backends.py
	$(BIN)/python benchmarks/heavy_tails.py
	$(BIN)/python benchmarks/stable_density.py
	$(BIN)/python benchmarks/fractional_moments.py
	$(BIN)/python benchmarks/depth_process.py
	$(BIN)/python benchmarks/resnet_scaling.py
	$(BIN)/python benchmarks/layer_variance.py
	$(BIN)/python benchmarks/prediction.py
	$(BIN)/python benchmarks/prediction.py --applications
	$(BIN)/python benchmarks/recommend.py
	$(BIN)/python benchmarks/first_aid.py
	$(BIN)/python benchmarks/isometry.py
	$(BIN)/python benchmarks/sinusoidal.py
	$(BIN)/python benchmarks/signal_stability.py
	$(BIN)/python benchmarks/calibrate.py
	$(BIN)/python benchmarks/constructed_networks.py
	$(BIN)/python benchmarks/triangle_waves.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/width_transfer.py
	$(BIN)/python benchmarks/distributed.py

clean:
	rm -rf $(VENV) .versions demo site

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/%.done: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[$(EXTRA)]" $(PACKAGES)
	touch $@

$(VENV)/demo.done: EXTRA := examples,tensorflow
$(VENV)/test.done: EXTRA := test
$(VENV)/torch.done: EXTRA := test,torch
$(VENV)/torch.done: PACKAGES := $(TORCH)
$(VENV)/docs.done: EXTRA := docs
$(VENV)/bench.done: EXTRA := bench
