"""The processes of a run: one, or several that were started by `torchrun` or `accelerate launch`."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from anysize.errors import SettingsError
from anysize_training.distill.alignment import HiddenStates
from anysize_training.distill.allocator import keep_freed_memory
from anysize_training.distill.recipe import Run

# The others wait while the main process downloads a teacher or tokenises a corpus.
_PATIENCE = timedelta(days=1)


class Processes:
    """Which process of a run this is, and what it does together with the others.

    With `parallel: replicate` every process holds all weights, and gradients are summed once an optimizer step, after
    all its micro-batches. With `parallel: shard` each holds a part of every layer of student and teacher (FSDP2), and
    layers are gathered as they run.

    Args:
        run: of the recipe.
        device: that a process by itself would use.

    Raises:
        SettingsError: micro-batches of all processes do not fill the batch.
    """

    def __init__(self, run: Run, device: torch.device) -> None:
        # Outside a launcher this joins nobody and only says so.
        state = PartialState(cpu=device.type == "cpu", timeout=_PATIENCE)
        self._state = state
        self.count: int = state.num_processes
        self.rank: int = state.process_index
        self.is_main: bool = state.is_main_process
        self.device: torch.device = device if self.count == 1 or state.device is None else state.device
        if self.device.type == "cpu":
            keep_freed_memory()
        self.is_sharded = run.parallel == "shard" and self.count > 1
        if run.batch_size % (run.micro_batch_size * self.count):
            raise SettingsError(
                f"run.batch_size {run.batch_size} cannot be split into micro-batches of {run.micro_batch_size} rows "
                f"for {self.count} processes"
            )

    def share(self, rows_B: Tensor) -> Tensor:
        """This process's part of the rows of a step."""
        return rows_B.chunk(self.count)[self.rank]

    def shard(self, model: HiddenStates) -> None:
        """Leave this process a part of each layer, where the run is sharded."""
        if not self.is_sharded:
            return
        mesh = init_device_mesh(self.device.type, (self.count,))
        for layer in model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        # Losses are divided by the tokens of all processes already, so gradients are summed, not averaged.
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)  # Gloo knows no other

    def release(self, model: HiddenStates) -> None:
        """Give back the ends of a sharded model, which stay gathered after a pass without gradients."""
        if isinstance(model, FSDPModule):
            model.reshard()

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up the gradients of all processes; a sharded model has done so in its backward pass."""
        if self.count > 1 and not self.is_sharded:
            self.sum(parameter.grad for parameter in parameters if parameter.grad is not None)

    def sum(self, tensors: Iterable[Tensor]) -> None:
        """Add up tensors of all processes in place."""
        if self.count > 1:
            pending = [dist.all_reduce(tensor, async_op=True) for tensor in tensors]
            for work in pending:
                if work is not None:
                    work.wait()

    def agree(self, wish: bool) -> bool:
        """Whether any process wishes it."""
        if self.count == 1:
            return wish
        votes = torch.tensor(int(wish), device=self.device)
        dist.all_reduce(votes)
        return bool(votes)

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process goes first; the others find what it has made."""
        with self._state.main_process_first():
            yield


def whole(tensor: Tensor) -> Tensor:
    """A tensor with the parts of all processes; each of them must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, pattern: Tensor) -> Tensor:
    """A whole tensor on the device of another one, and in as many parts."""
    if isinstance(pattern, DTensor):
        return distribute_tensor(tensor.to(pattern.device), pattern.device_mesh, pattern.placements)
    return tensor.to(pattern.device)
