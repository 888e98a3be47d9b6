# Python imports this module at the start of every process whose PYTHONPATH names this folder, before the program.
#
# It takes its folder off the path, attaches vladoctor, and gives way to the `sitecustomize` that Python would have
# found without it. Any Python may come by here, so that this is written in what all versions of Python 3 understand.
# Nothing that goes wrong in it may reach the program: it is written to the folder of the recording.
import os
import sys

_here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - pathlib takes 8 ms to import
sys.path[:] = [_entry for _entry in sys.path if os.path.abspath(_entry or ".") != _here]  # noqa: PTH100
_watch = os.environ.get("VLADOCTOR_WATCH")
if _watch:
    try:
        from vladoctor.launch.attach import attach

        attach(_watch)
    except Exception as _error:  # noqa: BLE001
        try:
            import json

            _record = {
                "pid": os.getpid(),
                "parent": os.getppid(),
                "executable": sys.executable,
                "arguments": list(getattr(sys, "orig_argv", getattr(sys, "argv", ()))),
                "error": "{}: {}".format(type(_error).__name__, _error),  # noqa: UP032
                "missing": getattr(_error, "name", None),
            }
            _name = "/processes/{}-failed.json".format(os.getpid())  # noqa: UP032
            with open(os.path.dirname(_watch) + _name, "w") as _file:  # noqa: PTH120, PTH123
                json.dump(_record, _file)
        except Exception:  # noqa: BLE001
            pass

# Where there is no other, this raises what Python expects to see there.
del sys.modules["sitecustomize"]
import sitecustomize  # type: ignore[import-not-found]  # noqa: E402, F401
