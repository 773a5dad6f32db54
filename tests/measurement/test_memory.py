"""Peak memory of `measure` compared with that of a bare forward pass."""

import json
import os
import subprocess
import sys

import pytest

# A process of its own, whose peak resident memory Linux keeps a record of.
RECORD_PEAKS = """
import json
import keras, tensorflow as tf
import keras_initx as kx

conv = dict(padding="same", activation="relu", kernel_initializer="he_normal")
model = keras.Sequential(
    [keras.Input((64, 64, 16))]
    + [keras.layers.Conv2D(16, 1, **conv) for _ in range(3)]
)
with_first_signal = keras.Model(
    model.inputs, [model.layers[0].output, model.outputs[0]]
)

def compiled(model):
    function = tf.function(
        lambda x: model(x, training=False),
        input_signature=[tf.TensorSpec((None, 64, 64, 16))],
    )
    return lambda x: keras.tree.map_structure(lambda y: y.shape, function(x))

runs = {
    "forward": compiled(model),
    "measure": lambda x: kx.measure(model, x, batch_size=len(x)),
    "one stored": compiled(with_first_signal),
}
# Up to 32 samples are reduced by other kernels than those measured below.
warm_up = tf.random.normal((48, 64, 64, 16))
for run in runs.values():
    run(warm_up)
x = tf.tile(warm_up, [8, 1, 1, 1])

def resident(record):
    status = open("/proc/self/status").read()
    return int(status.split(record)[1].split()[0]) / 1024

peaks = {}
for name, run in runs.items():
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # The record of the peak, VmHWM, starts anew.
    before = resident("VmRSS:")
    run(x)
    run(x)
    peaks[name] = resident("VmHWM:") - before
print(json.dumps(peaks))
"""
SIGNAL = 96  # MiB of each layer's output


@pytest.mark.slow
@pytest.mark.isolated
def test_measure_stores_no_signal():
    """`measure` needs less than a third of a signal beside the forward pass.

    A forward pass that keeps one signal more, the first layer's, shows what
    the test would see of it: a whole signal. About 10 MiB are XLA's compiled
    code for this batch size; the moments themselves are 1 MiB.

    The warm-up hides no signal, but only what the first compilation of these
    kernels in a process takes.
    """
    environment = {
        **os.environ,
        # Then tensors are allocated by malloc, and above the size below each
        # is mapped by itself and unmapped when released. oneDNN, which is on
        # or off by default depending on the processor, has a pool that keeps
        # released memory; so does glibc by default, more or less of it by
        # thread and size. Both hide tensors or look like some.
        "TF_ENABLE_ONEDNN_OPTS": "0",
        "MALLOC_MMAP_THRESHOLD_": str(2**18),
    }
    done = subprocess.run(
        [sys.executable, "-c", RECORD_PEAKS],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    peaks = json.loads(done.stdout.splitlines()[-1])
    stored = peaks["one stored"] - peaks["forward"]
    assert abs(stored - SIGNAL) < SIGNAL / 8, peaks
    assert peaks["measure"] - peaks["forward"] < SIGNAL / 3, peaks
