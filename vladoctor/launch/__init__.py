"""Runs somebody's program as it is, in processes of its own, with the taps attached from outside.

`command` starts the program and waits for it. `bootstrap/sitecustomize.py` is found by every Python that the program
consists of, as its folder stands first in PYTHONPATH; it calls `attach`. What passes between them lies in the folder of
the recording: `watch.json` (what to do) and `processes/*.json` (what each process saw). Why it is done in this way:
docs/decisions/0003-attaching.md.
"""
