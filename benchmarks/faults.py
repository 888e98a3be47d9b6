"""What each fault does to a run, and what vladoctor says of it: the section `catalogue` of docs/evidence.md.

    python benchmarks/faults.py fixtures/runs/evidence.yaml --workers 2 --write docs/evidence.md
    python benchmarks/faults.py --matrix FOLDER --write docs/evidence.md

The same as `vladoctor faults RUN`, written as a section. What has its report below --out is not run again, so an
interrupted run goes on where it stopped. `--matrix` runs nothing and takes the matrix.json of a folder.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from evidence import write_section

from vladoctor.matrix import plan, run_matrix
from vladoctor.report.matrix import brief, make_display, setting, write_matrix
from vladoctor.runspec import load_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("--matrix", type=Path, help="folder of a matrix that is there")
    parser.add_argument("--faults", nargs="*", default=(), help="names; by default all of them and the healthy loop")
    parser.add_argument("--episodes", type=int, help="episodes of each task, instead of the run file's")
    parser.add_argument("--healthy", type=int, help="episodes of each task without a fault; as many by default")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("reports/faults"))
    parser.add_argument("--write", type=Path, help="Markdown file whose section `catalogue` is replaced")
    parser.add_argument("--machine", default="", help="what to call the machine in the table")
    parser.add_argument("--json", action="store_true", help="print the matrix as JSON")
    arguments = parser.parse_args()
    if arguments.matrix:
        found = json.loads((arguments.matrix / "matrix.json").read_text("utf-8"))
    elif arguments.run:
        what = plan(
            str(arguments.run),
            load_run(arguments.run),
            faults=arguments.faults,
            episodes=arguments.episodes,
            healthy=arguments.healthy,
        )
        found = run_matrix(what, arguments.out, workers=arguments.workers, display=make_display())
        write_matrix(found, arguments.out)
    else:
        parser.error("name a run file, or a folder with --matrix")
    text = f"{setting(found, arguments.machine)}\n\n{brief(found)}"
    print(json.dumps(found, indent=1) if arguments.json else text)
    if not found["complete"]:
        sys.exit("interrupted; what is complete is kept, the same command goes on with the rest")
    if arguments.write:
        write_section(arguments.write, "catalogue", text)


if __name__ == "__main__":
    main()
