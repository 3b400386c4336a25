"""The environment that an engine in a process of its own starts in."""

from collections.abc import Mapping

# What torchrun and accelerate tell the processes of a run. An engine that read it would take itself for
# a part of that run: look for its peers, bind the run's port, or take another rank's GPU.
LAUNCHER_VARIABLES = frozenset(
    {
        "RANK",
        "LOCAL_RANK",
        "WORLD_SIZE",
        "LOCAL_WORLD_SIZE",
        "GROUP_RANK",
        "GROUP_WORLD_SIZE",
        "ROLE_RANK",
        "ROLE_NAME",
        "ROLE_WORLD_SIZE",
        "MASTER_ADDR",
        "MASTER_PORT",
    }
)
LAUNCHER_PREFIXES = ("TORCHELASTIC_", "ACCELERATE_", "PET_")
VISIBLE = "CUDA_VISIBLE_DEVICES"


def engine_environment(environment: Mapping[str, str], gpu: int | None) -> dict[str, str]:
    """`environment` without what a launcher put there.

    gpu: the only one that the engine is to see, as this process counts them; None: all.
    """
    kept = {
        name: value
        for name, value in environment.items()
        if name not in LAUNCHER_VARIABLES and not name.startswith(LAUNCHER_PREFIXES)
    }
    if gpu is not None:
        kept[VISIBLE] = _name(environment.get(VISIBLE, ""), gpu)
    return kept


def _name(visible: str, gpu: int) -> str:
    """What the machine calls the GPU that is number `gpu` of the visible ones (a number, or a UUID)."""
    names = [name.strip() for name in visible.split(",") if name.strip()]
    return names[gpu] if gpu < len(names) else str(gpu)
