import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"$',
    (HERE / "keras_initx" / "__init__.py").read_text(encoding="utf-8"),
    re.MULTILINE,
).group(1)

PLOT = ["matplotlib>=3.8"]
EXAMPLES = [*PLOT, "scikit-learn>=1.4", "ipykernel"]
TEST = [
    *EXAMPLES,
    "hypothesis",
    "mypy",
    "nbclient",
    "nbformat",
    "pytest",
    "pytest-xdist",
    "ruff",
]

setup(
    name="keras-initx",
    version=VERSION,
    description=(
        "Weights that keep the signal alive in deep Keras networks, the "
        "theory that predicts it, and the measurement that shows it."
    ),
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="keras_initx contributors",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=["keras_initx", "keras_initx.*"]),
    package_data={"keras_initx": ["py.typed"]},
    install_requires=[
        "keras>=3.15",
        "tensorflow",
        "tensorflow-probability[tf]",
        # TensorFlow Probability 0.25 imports distutils.
        'setuptools; python_version >= "3.12"',
        "numpy",
        "scipy",
    ],
    extras_require={"plot": PLOT, "examples": EXAMPLES, "test": TEST},
    entry_points={
        "console_scripts": ["keras-initx = keras_initx.cli.main:main"]
    },
    classifiers=[
        "Framework :: Jupyter",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
