"""Where a model runs and in which number format."""

from __future__ import annotations

from typing import Any

from kb.errors import EmbedderError


def pick_device(device: str) -> str:
    """`device`, or cuda if there is one, else cpu. Errors: EmbedderError if it is asked for and not there."""
    import torch

    if not device:
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = device.partition(":")
    if kind == "cpu" and not index:
        return device
    if kind == "cuda" and (not index or index.isdigit()) and int(index or 0) < torch.cuda.device_count():
        return device
    raise EmbedderError(
        f"Embedder device {device!r} is not on this machine ({torch.cuda.device_count()} CUDA devices). Use cpu.",
        zh=f"本机没有设备 {device!r}（CUDA 设备 {torch.cuda.device_count()} 个），请改用 cpu。",
    )


def cpu_computes_bf16() -> bool:
    """Whether the CPU multiplies bf16 itself (AMX or AVX512-BF16). Elsewhere bf16 is slower than fp32."""
    import torch

    features = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    if features:
        return bool(features.get("amx_bf16") or features.get("avx512_bf16"))
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(bool(getattr(torch.cpu, check, lambda: False)()) for check in checks)


def pick_dtype(dtype: str, *, device: str) -> Any:
    """The torch dtype: what is asked for, else bfloat16 where the hardware computes in it, else float32."""
    import torch

    if dtype:
        return getattr(torch, dtype)
    fast = torch.cuda.is_bf16_supported() if device.startswith("cuda") else cpu_computes_bf16()
    return torch.bfloat16 if fast else torch.float32
