"""What `measure` keeps beside the forward pass does not grow with samples."""

import subprocess
import sys

# A process of its own for each: the peak of a process cannot be taken back.
PEAK = """
import sys
import keras, tensorflow as tf
import keras_initx as kx

way, samples = sys.argv[1], int(sys.argv[2])
conv = dict(padding="same", activation="relu", kernel_initializer="he_normal")
model = keras.Sequential(
    [keras.Input((64, 64, 64))]
    + [keras.layers.Conv2D(64, 3, **conv) for _ in range(3)]
)
forward = tf.function(
    lambda x: model(x, training=False),
    input_signature=[tf.TensorSpec((None, 64, 64, 64))],
)
run = {
    "forward": lambda x: float(forward(x)[0, 0, 0, 0]),
    "measure": lambda x: kx.measure(model, x, batch_size=samples),
}[way]
x = tf.random.normal((samples, 64, 64, 64))
run(x[:2])

def resident(what):
    status = open("/proc/self/status").read()
    return int(status.split(what)[1].split()[0]) / 1024

with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # VmHWM starts anew
before = resident("VmRSS:")
run(x)
run(x)
print(resident("VmHWM:") - before)
"""


def peak(way, samples):
    """MiB that two passes over one batch take on top of a small one's."""
    command = [sys.executable, "-c", PEAK, way, str(samples)]
    printed = subprocess.run(
        command, capture_output=True, text=True, check=True
    )
    return float(printed.stdout.split()[-1])


def test_memory_is_a_function_of_units_not_of_samples():
    # A layer's signal grows from 16 to 64 MiB. Storing one more of them, or
    # the squares of one, would show as 48 MiB.
    grown = {
        way: peak(way, 64) - peak(way, 16) for way in ("forward", "measure")
    }
    assert grown["measure"] - grown["forward"] < 24, grown
