import os
import tempfile

import pytest

from vladoctor.adapters import libero

# Only for this sample, which has to run where LIBERO's own assets are not: vladoctor comes with stand-ins for them.
libero.prepare("stand-in")

if "PYTEST_XDIST_WORKER" in os.environ:
    # transformers copies a checkpoint's code to this folder before it imports it; workers that share it race.
    modules = tempfile.TemporaryDirectory(prefix="hf-modules-")
    os.environ["HF_MODULES_CACHE"] = modules.name


@pytest.fixture(scope="session")
def policy():
    import evaluate  # here, and not above: xdist's controller loads no model

    from fixtures import WEIGHTS

    return evaluate.Policy(WEIGHTS)


@pytest.fixture(scope="session")
def task():
    """(environment, instruction, init states); one a process, because two draw with each other's textures."""
    import evaluate

    env, instruction, init_states = evaluate.make_env(0)
    yield env, instruction, init_states
    env.close()
