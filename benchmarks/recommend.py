"""What does `recommend` find in the models of keras.applications?

Each model is looked at as Keras draws it, and after `initialize` with He
weights, for images of 32 x 32 of white noise. A row of the table is printed as
soon as it is done.

Run `python benchmarks/recommend.py [NAME ...]`.
"""

from __future__ import annotations

import sys
import time

import keras

import keras_initx as kx

MODELS = {
    "VGG16": {},
    "MobileNet": {},
    "ResNet50V2": {},
    "MobileNetV2": {},
    "DenseNet121": {},
    "ResNet50": {},
    "ConvNeXtTiny": {"include_preprocessing": False},
    "EfficientNetV2B0": {"include_preprocessing": False},
}


def row(name: str, weights: str, model: keras.Model) -> str:
    """Returns a row of the table."""
    start = time.process_time()
    findings = kx.recommend(model)
    seconds = time.process_time() - start
    found = "; ".join(
        f"{f.rule} ({f.predicted:.2g}, {f.after or 0:.2g} after `{f.call}`)"
        if f.predicted is not None
        else f"{f.rule}: {f.why}"
        for f in findings
    )
    seen = " ".join(findings.not_seen)
    cells = [name, weights, found or "nothing", seen, f"{seconds:.0f}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    for name in sys.argv[1:] or MODELS:
        model = getattr(keras.applications, name)(
            weights=None,
            include_top=False,
            pooling="avg",
            input_shape=(32, 32, 3),
            **MODELS[name],
        )
        print(row(name, "as drawn by Keras", model), flush=True)
        kx.initialize(model, "he_normal", seed=0)
        print(row(name, "he_normal", model), flush=True)


if __name__ == "__main__":
    main()
