"""Puts the small checkpoint that comes with vladoctor into weights/; here you would download your own."""

import shutil
from importlib.resources import as_file, files

from fixtures import WEIGHTS

with as_file(files("vladoctor.fixtures") / "tiny-openvla") as folder:
    shutil.copytree(folder, WEIGHTS, dirs_exist_ok=True)
print(WEIGHTS)
