"""FSDP2: every process holds a part of each layer, also of one in nf4 (FSDP-QLoRA).

A layer's weights are gathered just before it is needed and let go again. Trained weights are kept in float32, so they are
their own masters; what is gathered is rounded to the compute dtype, and gradients are added in float32.

A 4-bit weight is a row of bytes to which a state belongs (block constants, a 32nd of the bytes). The bytes are looked at as
float32 and travel apart from the layer's other weights. As numbers of 16 bits, as is usual, they would not arrive whole: on a
GPU such numbers are copied through float32, which makes one NaN of all NaNs, and 1 in 258 words reads as one. The state
stays whole on every GPU, with its module, where bitsandbytes looks for it when the bytes come back.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from finetune.methods import ADAPTERS, Trainee
from finetune.parallel import World
from kb.errors import SettingsError

if TYPE_CHECKING:
    from torch import Tensor

    from finetune.config import RunConfig


def check(config: RunConfig) -> None:
    """Raise SettingsError for options that do not go with sharded weights."""
    method, train = config.method, config.train
    bad = [
        ("--finetuning-type ptuning", method.finetuning_type == "ptuning"),
        ("--quantization-bit 8", method.quantization_bit == 8),
        ("--use-dora", method.use_dora and method.finetuning_type == "qlora"),
        (f"--optim {train.optim}", train.optim != "adamw"),
        ("--precision fp16", train.precision == "fp16"),
        ("--compile on", train.compile == "on"),
        ("--kernels on", train.kernels == "on"),
    ]
    for flag, there in bad:
        if there:
            raise SettingsError(
                f"{flag} does not go with --parallel fsdp. Leave it out, or use --parallel ddp.",
                zh=f"{flag} 不能与 --parallel fsdp 同用。请去掉它，或改用 --parallel ddp。",
            )


def shard(trainee: Trainee, *, world: World) -> Trainee:
    """Spread the model over all processes. Afterwards it works inside `trainee.within` only."""
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    compute = getattr(torch, trainee.loaded.dtype)
    if compute == torch.float16:
        raise SettingsError(
            "--parallel fsdp needs a GPU with bf16. Use --parallel ddp.",
            zh="--parallel fsdp 需要支持 bf16 的显卡。请改用 --parallel ddp。",
        )
    packed = _as_words(trainee.glm)
    for parameter in trainee.trainable().values():
        parameter.data = parameter.data.float()
    mesh = init_device_mesh(trainee.glm.device.type, (world.size,))
    policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32)
    if compute == torch.float32:
        policy = MixedPrecisionPolicy()
    for module in packed:
        fully_shard(module, mesh=mesh)  # without the policy: nothing of it is rounded
    for layer in trainee.blocks:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    root = _root(trainee.model)
    fully_shard(root, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    return replace(trainee, root=root)


def _root(model: Any) -> Any:
    """A module that holds the model and whose forward pass is whatever it is given.

    FSDP gathers embeddings, last norm and head when its root is called; our passes use them one by one.
    """
    import torch

    class Root(torch.nn.Module):
        """`root(work)` is `work()` with the outer weights there."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, work: Any) -> Any:
            """Carry it out."""
            return work()

    return Root()


def _as_words(glm: Any) -> list[Any]:
    """The modules with 4-bit weights, their bytes seen as float32: nothing is copied or changed."""
    import torch

    try:
        from bitsandbytes.nn import Linear4bit
    except ImportError:  # then there are no such weights
        return []
    modules = [module for module in glm.modules() if isinstance(module, Linear4bit)]
    for module in modules:
        weight: Any = module.weight
        weight.data = weight.data.reshape(-1).view(torch.float32).reshape(-1, 1)
        weight.quant_storage = module.quant_storage = torch.float32
        module.quant_state = weight.quant_state
    return modules


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may lie on many processes; all of them must ask."""
    full = getattr(tensor, "full_tensor", None)
    return tensor if full is None else full()


def part_like(full: Tensor, own: Tensor) -> Tensor:
    """Of a whole tensor what `own`, which may be sharded, holds on this process, on its device."""
    if not hasattr(own, "full_tensor"):
        return full.to(own.device)
    from torch.distributed.tensor import distribute_tensor

    sharded: Any = own
    if full.dim() == 0:
        return full.to(own.device)
    return distribute_tensor(full.to(own.device), sharded.device_mesh, sharded.placements, src_data_rank=None)


def gathered(trainee: Trainee, *, keep: bool) -> dict[str, Tensor]:
    """What is saved, whole, on the CPU, in the compute dtype. All processes must ask; those that do not `keep` get nothing.

    Adapters: the trained weights; full and freeze: all of them.
    """
    import torch

    compute = getattr(torch, trainee.loaded.dtype)
    out: dict[str, Tensor] = {}
    for name, parameter in trainee.model.named_parameters():
        if trainee.method in ADAPTERS and not parameter.requires_grad:
            continue
        full = whole(parameter.detach())
        if keep:
            out[name] = full.to("cpu", compute)
    return out
