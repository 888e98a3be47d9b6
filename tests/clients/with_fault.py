"""Run a program unedited, with a fault.

    python with_fault.py --list
    python with_fault.py flip-vertical official/run_libero_eval.py --pretrained_checkpoint PATH --task_id 0

`none` runs it as it is. Exit status: the program's own; 2 if the fault cannot be made in it.
"""

from __future__ import annotations

import runpy
import sys
import tempfile
from pathlib import Path

from faults import FAULTS, Program, Unfit


def main(arguments: list[str]) -> int:
    if arguments == ["--list"]:
        for fault in FAULTS.values():
            print(f"{fault.name:<22} {fault.check or '-':<6} {fault.what}")
        return 0
    if len(arguments) < 2 or arguments[0] not in FAULTS:
        print(__doc__, file=sys.stderr)
        return 2
    name, script = arguments[0], Path(arguments[1]).resolve()
    # as if the script had been called itself; our own folder behind, for what a changed copy imports
    here = sys.path[0]
    sys.path[0] = str(script.parent)
    sys.path.append(here)
    with tempfile.TemporaryDirectory(prefix="client-") as folder:
        program = Program(script, arguments[2:], Path(folder), script.read_text())
        try:
            FAULTS[name].apply(program)
        except Unfit as error:
            print(f"{name} cannot be made in {script.name}: {error}", file=sys.stderr)
            return 2
        target = script
        if program.text != script.read_text():
            target = Path(folder) / script.name
            target.write_text(program.text)
        sys.argv = [str(target), *program.arguments]
        runpy.run_path(str(target), run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
