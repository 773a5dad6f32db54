"""Tests of the imports between rooms, of docstrings and of the language.

A room is a folder of the package, or a module beside the folders.
"""

import ast
import functools
import graphlib
import io
import re
import tokenize
from pathlib import Path

import pytest

import keras_initx as kx
from tests.helpers import processes

PACKAGE = Path(kx.__file__).parent
ROOT = PACKAGE.parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# The levels of the house, from the ground up. No room imports from above.
LEVELS = (
    {"validation", "_startup", "backend"},
    {"distribute", "inspection", "profile"},
    {"distributions", "hooks", "theory"},
    {"constraints", "initializers", "layers", "measurement", "optimizers"},
    {"calibration", "initialization", "models", "prediction"},
    {"callbacks", "parametrization", "recommendation"},
    {"testing"},
    {"__init__"},
    {"cli", "__main__"},
)
# The rooms that each room may import, apart from validation.
ARROWS = {
    "_startup": set(),
    "validation": set(),
    "backend": set(),
    "distribute": set(),
    "profile": set(),
    "inspection": {"backend"},
    "theory": {"profile"},
    "distributions": set(),
    "hooks": {"backend", "inspection"},
    "initializers": {"backend", "distributions", "theory"},
    "constraints": set(),
    "layers": {"backend", "constraints", "inspection", "theory"},
    "measurement": {
        "backend",
        "distribute",
        "hooks",
        "inspection",
        "profile",
    },
    "initialization": {"initializers", "inspection", "profile", "theory"},
    "calibration": {"backend", "hooks", "inspection", "measurement", "profile"},
    "models": {"backend", "initializers", "layers", "theory"},
    "optimizers": set(),
    "parametrization": {
        "backend",
        "hooks",
        "initialization",
        "initializers",
        "inspection",
        "optimizers",
        "profile",
        "theory",
    },
    "prediction": {
        "backend",
        "hooks",
        "initializers",
        "inspection",
        "layers",
        "measurement",
        "profile",
        "theory",
    },
    "callbacks": {
        "backend",
        "distribute",
        "inspection",
        "measurement",
        "profile",
    },
    "recommendation": {
        "calibration",
        "initialization",
        "initializers",
        "inspection",
        "measurement",
        "prediction",
        "profile",
        "theory",
    },
    "testing": {"measurement", "recommendation"},
    "__init__": {
        "_startup",
        "backend",
        "calibration",
        "callbacks",
        "constraints",
        "distribute",
        "distributions",
        "initialization",
        "initializers",
        "inspection",
        "layers",
        "measurement",
        "models",
        "optimizers",
        "parametrization",
        "prediction",
        "profile",
        "recommendation",
        "testing",
        "theory",
    },
    "cli": {"__init__", "_startup", "initializers", "profile", "theory"},
    "__main__": {"cli"},
}
# Each subject of theory may import the subjects named, the record and
# validation.
THEORY_ARROWS = {
    "mean_field": set(),
    "norm_moments": {"mean_field"},
    "parametrization": set(),
    "residual": {"mean_field"},
    "sinusoidal": set(),
    "trained_weights": set(),
    "triangle_waves": set(),
}
THEORY_ARROWS["__init__"] = set(THEORY_ARROWS)
# These may import no framework.
WITHOUT_FRAMEWORK = {"profile", "theory", "validation"}
FRAMEWORKS = {"keras", "tensorflow", "tensorflow_probability"}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@functools.cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    """Returns all nodes of the code of a file, the module first."""
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


@functools.cache
def imported_names(path: Path) -> frozenset[str]:
    """Returns the dotted names that a file imports anywhere in its code."""
    names = set()
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


@functools.cache
def imported_modules(path: Path) -> frozenset[Path]:
    """Returns the files of the package that a file imports from."""
    found = set()
    for name in imported_names(path):
        first, *parts = name.split(".")
        if first != "keras_initx":
            continue
        place = PACKAGE
        for part in parts:
            if (place / f"{part}.py").exists():
                place = place / f"{part}.py"
                break
            if not (place / part).is_dir():
                break
            place = place / part
        found.add(place / "__init__.py" if place.is_dir() else place)
    return frozenset(found - {path})


def in_a_circle(graph: dict) -> list:
    """Returns the nodes of one circle of a directed graph."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_modules_import_the_rooms_below_them(path):
    here = room(path)
    assert here in ARROWS, "add a new room to ARROWS and LEVELS"
    for imported in imported_modules(path):
        allowed = ARROWS[here] | {here, "validation"}
        assert room(imported) in allowed, f"{here} -> {room(imported)}"


@pytest.mark.parametrize("here", ARROWS)
def test_every_arrow_is_used(here):
    imported = set()
    for path in MODULES:
        if room(path) == here:
            imported |= {room(other) for other in imported_modules(path)}
    assert ARROWS[here] - imported == set()


def test_contributing_has_the_same_arrows():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = {}
    for line in text.splitlines():
        if match := re.match(r"\| `(\w+)` \|.*\|(.*)\|$", line):
            names = set(re.findall(r"`(\w+)`", match[2]))
            # The package itself is the module __init__.
            package = {"__init__"} if "keras_initx" in names else set()
            table[match[1]] = names - {"keras_initx"} | package
    # The modules beside the folders that hold no subject of their own.
    for name in ("_startup", "validation", "__init__", "__main__"):
        assert name not in table
        table[name] = ARROWS[name]
    assert table == ARROWS


@pytest.mark.parametrize("here", ARROWS)
def test_arrows_do_not_point_up(here):
    height = {name: i for i, level in enumerate(LEVELS) for name in level}
    assert set(height) == set(ARROWS)
    for there in ARROWS[here]:
        assert height[there] <= height[here], f"{here} -> {there}"


@pytest.mark.parametrize("arrows", [ARROWS, THEORY_ARROWS])
def test_rooms_have_no_circle(arrows):
    assert in_a_circle(arrows) == []


def test_modules_have_no_circle():
    graph = {path: imported_modules(path) for path in MODULES}
    assert list(map(relative, in_a_circle(graph))) == []


def test_a_circle_is_found():
    circle = in_a_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}})
    assert sorted(set(circle)) == ["b", "c"]


@pytest.mark.parametrize(
    "path", [path for path in MODULES if room(path) == "theory"], ids=relative
)
def test_subjects_of_theory_import_those_below_them(path):
    here = path.relative_to(PACKAGE / "theory").parts[0].removesuffix(".py")
    assert here in THEORY_ARROWS, "add a new subject to THEORY_ARROWS"
    allowed = THEORY_ARROWS[here] | {here}
    for name in imported_names(path):
        assert name != "keras_initx.theory", "import from the subject"
        if name.startswith("keras_initx.theory."):
            there = name.split(".")[2]
            assert there in allowed, f"{here} -> {there}"


def test_modules_that_measure_uses_call_down_and_never_back_up():
    chain = ["measurement", "hooks", "inspection"]
    start = PACKAGE / "measurement" / "measure.py"
    reached, waiting = set(), [start]
    while waiting:
        path = waiting.pop()
        reached.add(path)
        waiting += imported_modules(path) - reached
        for imported in imported_modules(path):
            rooms = [room(path), room(imported)]
            if set(rooms) <= set(chain):
                here, there = map(chain.index, rooms)
                assert there >= here, " -> ".join(rooms)
    ground = {"backend", "distribute", "profile", "validation"}
    assert {room(path) for path in reached} == {*chain, *ground}


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_only_public_names_of_keras_and_tfp(path):
    for name in imported_names(path):
        assert not name.startswith("keras.src"), name
        assert not name.startswith("tensorflow.python"), name
        assert not name.startswith("tensorflow_probability.python"), name


@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if room(path) in WITHOUT_FRAMEWORK],
    ids=relative,
)
def test_theory_and_profile_import_no_framework(path):
    module, *_ = nodes_of(path)
    # A check may import a framework when it is called.
    modules = {
        name.name if isinstance(node, ast.Import) else node.module
        for node in module.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    if room(path) != "validation":
        modules = imported_names(path)
    assert not {name.split(".")[0] for name in modules} & FRAMEWORKS


# These run on Keras's TensorFlow backend alone.
ON_TENSORFLOW = {
    "distribute",
    "distributions",
}
FILES_ON_TENSORFLOW = {
    "initializers/distribution_config.py",
    "measurement/replicas.py",
}


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_rooms_for_every_backend_import_none(path):
    here = path.relative_to(PACKAGE).as_posix()
    if room(path) in ON_TENSORFLOW or here in FILES_ON_TENSORFLOW:
        return
    nodes = nodes_of(path)
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    within = {id(node) for f in functions for node in ast.walk(f)}
    for node in nodes:
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        module = getattr(node, "module", None) or node.names[0].name
        name = module.split(".")[0]
        if name in {"tensorflow", "jax", "torch"}:
            assert here == f"backend/{name}_passes.py" or (
                here in ("backend/__init__.py", "backend/float64.py")
                and id(node) in within
            ), module


@pytest.mark.isolated
def test_importing_costs_no_package_beside_those_of_keras():
    # TensorFlow Probability takes a second, and no other package may slow down
    # the import either.
    loaded = processes.run_code(
        "import sys, keras; before = set(sys.modules); import keras_initx\n"
        "import keras_initx.distributions.alpha_stable.sampling\n"
        "print({m.split('.')[0] for m in set(sys.modules) - before})"
    )
    assert loaded.output.strip() == "{'keras_initx'}", loaded.errors


@pytest.mark.parametrize(
    "module",
    [
        kx,
        kx.theory,
        kx.distributions,
        kx.initializers,
        kx.layers,
        kx.constraints,
        kx.inspection,
        kx.models,
        kx.optimizers,
        kx.prediction,
        kx.callbacks,
        kx.distribute,
        kx.testing,
    ],
    ids=lambda module: module.__name__,
)
def test_public_objects_have_an_example_and_a_reference(module):
    for name in module.__all__:
        member = getattr(module, name)
        if isinstance(member, type(kx)):
            continue
        text = member.__doc__ or ""
        is_result = isinstance(member, type) and issubclass(member, tuple)
        # The function that returns a named tuple has the example.
        for part in ["Attributes:"] if is_result else [">>>", "Reference"]:
            assert part in text, f"{name} has no {part!r} in its docstring"


def test_rooms_complete_to_public_names():
    rooms = [kx, *(getattr(kx, name) for name in kx.__all__)]
    rooms += [getattr(kx.theory, name) for name in kx.theory.__all__]
    for room in rooms:
        if isinstance(room, type(kx)):
            names = {name for name in dir(room) if not name.startswith("_")}
            assert names == set(room.__all__), room


@pytest.mark.parametrize(
    "path",
    MODULES,
    ids=relative,
)
def test_examples_and_references_have_one_layout(path):
    for node in nodes_of(path):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            continue
        text = ast.get_docstring(node) or ""
        assert not re.search(r"^(Examples|References):", text, re.MULTILINE)
        example = re.search(r"^Example:(.*\n){3}", text, re.MULTILINE)
        if example:
            assert re.match(r"Example:\n\n>>> ", example[0]), example[0]
        assert not re.search(r"^Reference:$", text, re.MULTILINE)


# ---- Language ---------------------------------------------------------------

# The words to use instead are those of Keras, TensorFlow Probability and torch.
BANNED = {
    # hook, record
    r"hear|hears|heard|hearing|listen\w*|tapped|told": "told apart",
    # non-finite
    r"culprits?|innocent\w*": "",
    # skipped
    r"left alone|leaves? alone|untouched": "",
    # distribution
    r"laws?": r"power[ -]|zero-one |'s |large numbers",
    # Poetry
    r"idle|idles|idling|dress(es|ed)?( up)?|keeps? books|bookkeeping": "",
    # A verb or a subject is missing in sentences that begin so.
    r"(?-i:Of)": "",
}
BRITISH = (
    r"(initial|normal|regular|optim|general|standard|vector|parametr|"
    r"parameter|organ|recogn|summar|minim|maxim|penal|quant|discret|factor|"
    r"real|util|special|serial|visual|emphas|character|symmetr|linear|random|"
    r"stabil|equal|local|categor|custom)is(e|es|ed|ing|er|ers|ations?)|"
    r"analys(e|ed|ing)|(colour|behaviour|favour|neighbour|honour|flavour)\w*|"
    r"centre[ds]?|centring|grey\w*|metres?|licence|artefacts?|whilst|"
    r"(model|label|travel|cancel|channel)l(ed|ing)|catalogues?"
)
# Titles of papers keep their spelling.
TITLES = "Stable behaviour of"
PRIVATE_PATH = re.compile(r"(?<![\w./~-])/(home|root|work|Users)/\w+")


# Names of other libraries.
FOREIGN_NAMES = {"CancelledError"}


def words_of(identifier: str) -> str:
    """Returns the words of a name, split at underscores and capitals."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", identifier)
    return words.replace("_", " ").lower()


def texts(path: Path) -> list[str]:
    """Returns the strings, comments and names of a file, or all of its text."""
    content = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return content.split("\n\n")
    kinds = {tokenize.STRING, tokenize.COMMENT}
    # A part of an f-string, from Python 3.12 on.
    kinds.add(getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING))
    tokens = [*tokenize.generate_tokens(io.StringIO(content).readline)]
    names = {t.string for t in tokens if t.type == tokenize.NAME}
    return [
        *(token.string for token in tokens if token.type in kinds),
        *map(words_of, names - FOREIGN_NAMES),
    ]


def banned(text: str) -> list[str]:
    """Returns the words of a text that this project does not use."""
    found = []
    for words, proper_names in {**BANNED, BRITISH: TITLES}.items():
        for match in re.finditer(rf"\b({words})\b", text, re.IGNORECASE):
            around = text[max(0, match.start() - 9) : match.end() + 17]
            if not proper_names or not re.search(proper_names, around):
                found.append(match[0])
    return found


def has_word(text: str) -> bool:
    """Returns whether a text has such a word, also in a proper name."""
    return any(
        re.search(rf"\b({words})\b", text, re.IGNORECASE)
        for words in [*BANNED, BRITISH]
    )


WRITTEN = [
    path
    for pattern in (
        *("keras_initx/**/*.py", "tests/**/*.py"),
        *("benchmarks/*.py", "examples/*.py"),
        *("*.md", "docs/**/*.md", "examples/*.md"),
    )
    for path in sorted(ROOT.glob(pattern))
    # This file lists the words.
    if path != Path(__file__)
]


@pytest.mark.parametrize("path", WRITTEN, ids=relative)
def test_language(path):
    content = path.read_text(encoding="utf-8")
    # To read Python's tokens takes long, and few files have such a word.
    if not has_word(content) and not has_word(words_of(content)):
        return
    found = {word for text in texts(path) for word in banned(text)}
    assert not found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Samples stable laws.", ["laws"]),
        ("A power law, the law of large numbers and Zipf's law.", []),
        ("What a layer has heard, and was told.", ["heard", "told"]),
        ("The layer that was left alone is idle.", ["left alone", "idle"]),
        ("Near a sidle; two samples are told apart.", []),
        ("Normalisation; normalised colours.", None),
        ("Raises an error; exercise, precise noise, promised.", []),
        ("epochs: Of the training.", ["Of"]),
        ("One of several. Of these, the first.", ["Of"]),
        ("OfATest, kind of", []),
    ],
)
def test_words_that_are_banned(text, words):
    found = banned(text)
    assert has_word(text) or not found
    if words is None:
        words = ["Normalisation", "normalised", "colours"]
    assert sorted(found) == sorted(words)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("is_heard", ["heard"]),
        ("their_law", ["law"]),
        ("test_it_is_left_alone", ["left alone"]),
        ("TheCentre", ["centre"]),
        ("_IDLE", ["idle"]),
        ("OfDict", []),
        ("flaw_lawless", []),
    ],
)
def test_words_of_names_that_are_banned(name, words, tmp_path):
    path = tmp_path / "module.py"
    path.write_text(f"{name} = 1\n", encoding="utf-8")
    assert [w for text in texts(path) for w in banned(text)] == words
    assert has_word(words_of(path.read_text(encoding="utf-8"))) or not words


@pytest.mark.parametrize(
    "path",
    [*WRITTEN, *sorted(ROOT.glob("examples/*.ipynb"))],
    ids=relative,
)
def test_no_path_of_a_private_machine(path):
    assert not PRIVATE_PATH.search(path.read_text(encoding="utf-8"))
