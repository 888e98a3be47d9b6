"""The run in TensorBoard: its numbers as scalars, its summary as text."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vladoctor.errors import UserError
from vladoctor.report.scalars import PREFIX, scalars, summary_text

if TYPE_CHECKING:
    from vladoctor.result import RunResult


def require_tensorboard() -> None:
    """Find out before the run that nothing could be written.

    Raises:
        UserError: neither tensorboardX nor torch with tensorboard is installed.
    """
    if find_spec("tensorboardX") is None and (find_spec("torch") is None or find_spec("tensorboard") is None):
        raise UserError(
            "TensorBoard cannot be written: neither tensorboardX nor torch with tensorboard is installed",
            where="report.tensorboard",
            remedy="pip install tensorboardX",
        )


def write_tensorboard(result: RunResult, folder: Path, *, step: int = 0) -> None:
    """Add the run to a TensorBoard folder.

    Args:
        step: where on the axis it stands: the checkpoint's training step, say.

    Raises:
        UserError: see `require_tensorboard`.
        OSError: the folder cannot be written to.
    """
    require_tensorboard()
    writer: Any
    # The first imports no torch.
    if find_spec("tensorboardX") is not None:
        from tensorboardX import SummaryWriter
    else:
        from torch.utils.tensorboard import SummaryWriter
    folder.mkdir(parents=True, exist_ok=True)
    writer = SummaryWriter(str(folder), filename_suffix=f".{PREFIX}")
    try:
        for name, value in scalars(result).items():
            writer.add_scalar(name, value, step)
        # Markdown: four spaces keep lines as they are.
        text = "\n".join(f"    {line}" for line in summary_text(result).splitlines())
        writer.add_text(f"{PREFIX}/summary", text, step)
    finally:
        writer.close()
