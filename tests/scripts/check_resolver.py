"""Checks what pip installs beside this package, without installing it.

    python tests/scripts/check_resolver.py

Beside a package of TensorFlow that is not called `tensorflow`, nothing but this
package and SciPy may be added, and no version may change. It needs the network.
"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BESIDE = (
    "tensorflow-cpu==2.20.0",
    "tensorflow[and-cuda]==2.20.0",
    "jax[cuda12]==0.7.2",
)


def main():
    failed = False
    for package in BESIDE:
        alone = resolved(package, "keras>=3.10")
        both = resolved(package, "keras>=3.10", str(ROOT))
        added = set(both) - set(alone)
        changed = {name for name in alone if both.get(name) != alone[name]}
        good = added <= {"keras-initx", "scipy"} and not changed
        failed |= not good
        print(
            f"beside {package}: adds {', '.join(sorted(added))}; changes "
            f"{', '.join(sorted(changed)) or 'nothing'}",
            flush=True,
        )
    return int(failed)


def resolved(*requirements):
    """The version of each package that pip would install."""
    command = (
        *(sys.executable, "-m", "pip", "install", "--quiet", "--dry-run"),
        *("--ignore-installed", "--report", "-", *requirements),
    )
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed")
    found = json.loads(done.stdout[done.stdout.index("{") :])["install"]
    return {
        each["metadata"]["name"].lower(): each["metadata"]["version"]
        for each in found
    }


if __name__ == "__main__":
    sys.exit(main())
