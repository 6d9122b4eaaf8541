"""Fuzzes a target: ``python -m tests.fuzzing agent [option of libFuzzer ...] [folder ...]``."""

from __future__ import annotations

import sys
from pathlib import Path

import atheris
from twisted.logger import globalLogBeginner

with atheris.instrument_imports(include=["spoa_twisted"]):
    from tests.fuzzing.targets import CORPORA, TARGETS

HERE = Path(__file__).parent
FOUND = HERE.parents[1] / ".fuzzing"


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: python -m tests.fuzzing {'|'.join(TARGETS)} [option of libFuzzer ...] [folder ...]")
    target = sys.argv.pop(1)
    FOUND.mkdir(exist_ok=True)
    # libFuzzer starts from the inputs in all folders, and writes inputs that reach new code into the first one. So the
    # corpus, which is in git, must not be the first.
    if all(argument.startswith("-") for argument in sys.argv[1:]):
        (FOUND / target).mkdir(exist_ok=True)
        sys.argv.append(str(FOUND / target))
    if all(Path(argument).is_dir() for argument in sys.argv[1:] if not argument.startswith("-")):
        sys.argv.append(str(HERE / "corpus" / CORPORA[target]))
    sys.argv.insert(1, f"-artifact_prefix={FOUND}/{target}-")
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)
    atheris.Setup(sys.argv, TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
