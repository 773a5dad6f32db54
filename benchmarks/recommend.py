"""What does `recommend` find in models of Keras, and does it matter?

Each model of keras.applications is looked at as Keras draws it, and after
`initialize` with He weights, for images of 32 x 32 of white noise. The
Transformers are looked at with random tokens; those of KerasHub are left out
where it is not installed. A row of the table is printed as soon as it is done.

Run `python benchmarks/recommend.py [NAME ...]`. With `--train NAME ...`, models
are trained on handwritten digits, as Keras draws them and after the line of the
first finding, and the losses in training and in inference mode are printed.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import keras
import numpy as np

import keras_initx as kx

NOT_RESCALED = ("ConvNeXtTiny", "EfficientNetV2B0", "MobileNetV3Small")
MODELS = (
    *("VGG16", "ResNet50", "ResNet50V2", "DenseNet121", "MobileNet"),
    *("MobileNetV2", "MobileNetV3Small", "EfficientNetB0"),
    *("EfficientNetV2B0", "ConvNeXtTiny", "Transformer", "Bert", "GPT2"),
)
TOKENS = np.random.default_rng(0).integers(0, 1000, size=(64, 12))


def made(name: str) -> tuple[keras.Model, Any]:
    """Returns a model, and the data it is looked at with."""
    if name == "Transformer":
        return transformer(), TOKENS
    if name in ("Bert", "GPT2"):
        return backbone(name)
    options: dict[str, Any] = {"include_top": False, "pooling": "avg"}
    if name in NOT_RESCALED:
        options["include_preprocessing"] = False
    make = getattr(keras.applications, name)
    return make(weights=None, input_shape=(32, 32, 3), **options), None


def transformer(blocks: int = 6, width: int = 128) -> keras.Model:
    """Returns a Transformer with a normalization before each branch."""
    layers = keras.layers
    inputs = keras.Input(TOKENS.shape[1:], dtype="int32")
    x = layers.Embedding(1000, width)(inputs)
    for _ in range(blocks):
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        x = x + layers.MultiHeadAttention(4, width // 4)(y, y)
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        y = layers.Dense(4 * width, "gelu")(y)
        x = x + layers.Dense(width)(y)
    x = layers.LayerNormalization(epsilon=1e-6)(x)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(10)(x))


def backbone(name: str) -> tuple[keras.Model, dict[str, np.ndarray]]:
    """Returns a small model of KerasHub, and its data."""
    import keras_hub

    model = getattr(keras_hub.models, f"{name}Backbone")(
        vocabulary_size=1000,
        num_layers=4,
        num_heads=4,
        hidden_dim=128,
        intermediate_dim=512,
        max_sequence_length=16,
    )
    data = {"token_ids": TOKENS, "padding_mask": np.ones_like(TOKENS)}
    if name == "Bert":
        data["segment_ids"] = np.zeros_like(TOKENS)
    return model, data


def row(name: str, weights: str, model: keras.Model, data: Any) -> str:
    """Returns a row of the table."""
    start = time.process_time()
    findings = kx.recommend(model, data)
    seconds = time.process_time() - start
    found = "; ".join(f"`{f.rule}` ({text(f)})" for f in findings)
    cells = [name, weights, found or "none", f"{seconds:.0f}"]
    return f"| {' | '.join(cells)} |"


def text(finding: kx.Finding) -> str:
    """Returns the numbers of a finding, or why there are none."""
    value = finding.predicted
    if finding.measured is not None:
        value = finding.measured
    if value is None:
        return finding.why
    after = "no line" if finding.after is None else f"{finding.after:.2g}"
    return f"{value:.2g}, after its line {after}"


def train(name: str, seed: int) -> str:
    """Returns the losses of a model and of the same one after a line."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.repeat(np.repeat(digits.images / 8 - 1, 4, 1), 4, 2)
    x = np.repeat(images[..., None], 3, axis=3).astype("float32")
    cells = [name]
    for mended in (False, True):
        keras.utils.set_random_seed(seed)
        body, _ = made(name)
        if mended:
            finding = kx.recommend(body)[0]
            exec(finding.call, {"model": body, "kx": kx})
        model = keras.Sequential([body, keras.layers.Dense(10, "softmax")])
        loss = "sparse_categorical_crossentropy"
        model.compile(keras.optimizers.Adam(1e-3), loss)
        part = x[:1500], digits.target[:1500]
        # The losses are those of the last epoch, with batch statistics, and of
        # other images, with moving ones.
        history = model.fit(*part, batch_size=50, epochs=2, verbose=0)
        other = model.evaluate(x[1500:], digits.target[1500:], verbose=0)
        cells.append(f"{history.history['loss'][-1]:.3f}, {other:.3g}")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    names = [name for name in sys.argv[1:] if name != "--train"]
    if "--train" in sys.argv:
        for name in names:
            print(train(name, seed=0), flush=True)
        return
    for name in names or MODELS:
        keras.utils.set_random_seed(0)
        try:
            model, data = made(name)
        except ImportError as error:
            print(f"{name}: {error}", flush=True)
            continue
        print(row(name, "as drawn by Keras", model, data), flush=True)
        weights = "he_normal" if data is None else "lecun_normal"
        kx.initialize(model, weights, seed=0)
        print(row(name, f"`{weights}`", model, data), flush=True)


if __name__ == "__main__":
    main()
