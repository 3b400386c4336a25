"""The processes of a run, and what they exchange. A run of one process exchanges nothing."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor

from trainer_client.distributed.rank_ends import RankEnds
from trainer_client.trainer_errors import TrainerError

T = TypeVar("T")
# Rank 0 may wait long for the service, the others for the slowest engine.
TIMEOUT = timedelta(hours=2)
# Gradients are added up in pieces of so many numbers: few calls, little memory.
BUCKET_NUMBERS = 16 * 1024 * 1024


class World:
    """A run of one process. rank: this process, from 0. size: how many there are."""

    rank = 0
    size = 1

    @property
    def is_first(self) -> bool:
        """Whether this process speaks for all: to the service, to the user, to the disk."""
        return self.rank == 0

    def broadcast(self, value: T) -> T:
        """Rank 0's value, on every rank."""
        return value

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in order, on every rank."""
        return [value]

    def add(self, tensor: Tensor) -> None:
        """Adds up a tensor over the ranks, in place."""

    def agrees_on_any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        return any(self.gather(flag))

    def add_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Adds up gradients over the ranks; a rank without any counts as zero."""
        bucket: list[torch.nn.Parameter] = []
        if self.size == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if bucket and (
                sum(p.numel() for p in bucket) + parameter.numel() > BUCKET_NUMBERS
                or bucket[0].dtype != parameter.dtype
            ):
                self._add_bucket(bucket)
                bucket = []
            bucket.append(parameter)
        if bucket:
            self._add_bucket(bucket)

    def check_same(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Raises TrainerError when the ranks' parameters differ."""
        sums = [float(parameter.detach().double().sum()) for parameter in parameters]
        gathered = self.gather(sums)
        if any(other != gathered[0] for other in gathered):
            raise TrainerError(
                "the processes of this run start from different weights; give all of them the same model folder "
                "and the same checkpoints (a shared file system)"
            )

    def together(self, work: Callable[[], T]) -> T:
        """This rank's part of what all ranks do at this point; what fails on one of them ends it on all.

        `work` exchanges nothing: the others would wait for a rank that has failed.
        """
        return work()

    def close(self, error: BaseException | None = None) -> None:
        """Leaves the group. error: what this rank ends with; the others are told."""

    def _add_bucket(self, bucket: Sequence[torch.nn.Parameter]) -> None:
        gradients = [parameter.grad for parameter in bucket if parameter.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        self.add(flat)
        at = 0
        for gradient in gradients:
            gradient.copy_(flat[at : at + gradient.numel()].view_as(gradient))
            at += gradient.numel()


class RankLostError(TrainerError):
    """Another process of this run has ended."""


class TorchWorld(World):
    """The processes that torchrun started; objects by gloo, gradients on a GPU by NCCL."""

    def __init__(self) -> None:
        import torch.distributed

        dist: Any = torch.distributed
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        store, self.rank, self.size = next(dist.rendezvous("env://", timeout=TIMEOUT))
        dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.size, timeout=TIMEOUT)
        self._dist = dist
        # Objects travel by the CPU, whatever the gradients do.
        self._objects = dist.new_group(backend="gloo", timeout=TIMEOUT)
        self._ends = RankEnds(dist.PrefixStore("ends", store), self.rank, self.size)
        self._ends.start()

    def broadcast(self, value: T) -> T:
        """Rank 0's value, on every rank."""
        box = [value if self.is_first else None]
        with self._exchange():
            self._dist.broadcast_object_list(box, src=0, group=self._objects)
        return box[0]  # type: ignore[return-value]

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in order, on every rank."""
        boxes: list[Any] = [None] * self.size
        with self._exchange():
            self._dist.all_gather_object(boxes, value, group=self._objects)
        return boxes

    def add(self, tensor: Tensor) -> None:
        """Adds up a tensor over the ranks, in place."""
        with self._exchange():
            self._dist.all_reduce(tensor)

    def together(self, work: Callable[[], T]) -> T:
        """This rank's part of what all ranks do at this point; what fails on one of them ends it on all."""
        value: T | None = None
        failure: Exception | None = None
        try:
            value = work()
        except Exception as error:
            failure = error
        told = self.gather("" if failure is None else said(failure))
        if failure is not None:
            raise failure
        for rank, problem in enumerate(told):
            if problem:
                raise TrainerError(f"rank {rank} failed: {problem}")
        return value  # type: ignore[return-value]

    def close(self, error: BaseException | None = None) -> None:
        """Leaves the group. error: what this rank ends with; the others are told."""
        if error is not None and not isinstance(error, RankLostError):
            self._ends.tell(said(error))
        self._ends.end()
        self._dist.destroy_process_group()

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            # The library names a socket; people want to know which process, and why.
            raise RankLostError(self._ends.why()) from error


def said(error: BaseException) -> str:
    """An error in one line, with its kind where it is not one of ours that speaks for itself."""
    return str(error) if isinstance(error, TrainerError) else f"{type(error).__name__}: {error}"


def start_world() -> World:
    """The processes of this run, as torchrun's environment says; one where it says nothing."""
    return TorchWorld() if int(os.environ.get("WORLD_SIZE", "1")) > 1 else World()


def shares(costs: Sequence[int], size: int) -> list[list[int]]:
    """Places of `costs`, shared out among `size` ranks so that no rank has much more to do.

    The most expensive first, each to the rank with the least so far; the same on every rank.
    """
    totals = [0] * size
    chosen: list[list[int]] = [[] for _ in range(size)]
    for place in sorted(range(len(costs)), key=lambda place: (-costs[place], place)):
        rank = min(range(size), key=lambda rank: (totals[rank], rank))
        totals[rank] += costs[place]
        chosen[rank].append(place)
    return [sorted(places) for places in chosen]
