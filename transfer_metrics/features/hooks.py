"""Read layers during a forward pass, pooled inside the hook.

Two traps make a hook that merely keeps the output wrong without an error: a later in-place module
overwrites the tensor that was kept, and a module that runs several times leaves only its last
output. So outputs are pooled (or copied) at once, and calls are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from transfer_metrics.errors import ExtractionError, TransferMetricsError
from transfer_metrics.features.layers import Layer
from transfer_metrics.features.pooling import Pool, resolve_pool
from transfer_metrics.features.trace import batch_size, first_tensor, parse_layer
from transfer_metrics.sources.models.huggingface_audio import convolutions
from transfer_metrics.sources.models.modules import alone, unfused


class LayerTaps:
    """Context manager that pools the output of layers whenever a module runs.

    The network must be called itself, not its ``forward``, and ``logits`` is the path of the module
    whose output are the source logits ("" for the network). The attention mask of a batch of texts
    or sounds is taken from the argument ``attention_mask``; of sounds it is carried over to the
    resolution of each layer. Gradients flow through what is collected, unless switched off.
    """

    def __init__(
        self,
        module: nn.Module,
        layers: Iterable[Layer],
        pool: str | Pool | Callable[..., Tensor] = "avg",
        *,
        logits: str | None = None,
    ) -> None:
        self._module = module
        self._layers = list(layers)
        self._pool = resolve_pool(pool)
        self._logits_path = logits
        self._open = ExitStack()
        self._clear()

    def _clear(self) -> None:
        self._features: dict[str, Tensor] = {}
        self._calls: dict[str, int] = {}
        self._mask: Tensor | None = None
        self._masks: dict[int, Tensor] = {}
        self._n = 0
        self.logits: Tensor | None = None

    def __enter__(self) -> LayerTaps:
        # Script modules refuse the methods of their own, though the hooks run.
        before, after = nn.Module.register_forward_pre_hook, nn.Module.register_forward_hook
        outputs: dict[str, dict[int, Layer]] = {}
        modules = dict(self._module.named_modules())
        with ExitStack() as stack:
            stack.enter_context(alone(self._module))
            stack.enter_context(unfused)
            begin = before(self._module, self._begin, with_kwargs=True, prepend=True)
            stack.callback(begin.remove)
            for layer in self._layers:
                path, call, is_input = parse_layer(layer.name)
                if is_input:
                    keep = partial(self._on_input, layer)
                    stack.callback(before(modules[path], keep, with_kwargs=True).remove)
                else:
                    outputs.setdefault(path, {})[call or 0] = layer
            for path, wanted in outputs.items():
                keep = partial(self._on_output, path, wanted)
                stack.callback(after(modules[path], keep).remove)
            if self._logits_path is not None:
                stack.callback(after(modules[self._logits_path], self._on_logits).remove)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()
        self._clear()

    def collect(self) -> dict[str, Tensor]:
        """Pooled outputs of the last forward pass, (N, D) float32 by layer name, on its device."""
        for layer in self._layers:
            if layer.name not in self._features:
                raise ExtractionError(
                    f"layer {layer.name!r} did not run in this forward pass, though it did when "
                    f"the layers were listed; the network's path depends on its input, so leave "
                    f"this layer out"
                )
            path, call, is_input = parse_layer(layer.name)
            if call is None and not is_input and self._calls[path] > 1:
                raise ExtractionError(
                    f"layer {layer.name!r} ran {self._calls[path]} times in this forward pass, and "
                    f"once when the layers were listed; the network's path depends on its input, "
                    f"so leave this layer out"
                )
        return {layer.name: self._features[layer.name] for layer in self._layers}

    def _begin(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._clear()
        self._n = batch_size((*args, *kwargs.values()))
        mask = kwargs.get("attention_mask")
        if isinstance(mask, Tensor) and mask.ndim == 2:
            self._mask, self._masks = mask, _frame_masks(self._module, mask)
            if torch.compiler.is_compiling():
                return  # what an export traces has shapes but no values
            empty = (~mask.bool().any(1)).nonzero()
            if len(empty):
                raise ExtractionError(
                    f"example {empty[0].item()} of a batch has no token, so there is nothing to "
                    f"pool; leave empty texts out of the task"
                )

    def _on_input(self, layer: Layer, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._keep(layer, (*args, *kwargs.values()))

    def _on_output(
        self, path: str, wanted: dict[int, Layer], module: nn.Module, args: Any, output: Any
    ) -> None:
        call = self._calls.get(path, 0)
        self._calls[path] = call + 1
        if call in wanted:
            self._keep(wanted[call], output)

    def _on_logits(self, module: nn.Module, args: Any, output: Any) -> None:
        logits = first_tensor(output)
        if logits is not None:
            logits = logits.dequantize() if logits.is_quantized else logits
            self.logits = logits.float() if logits.dtype != torch.float32 else logits.clone()

    def _keep(self, layer: Layer, output: Any) -> None:
        tensor, layout = first_tensor(output), layer.layout
        if tensor is not None and layout == "TNC":
            tensor, layout = tensor.transpose(0, 1), "NTC"
        if tensor is None or tensor.shape[0] != self._n:
            shape = None if tensor is None else tuple(tensor.shape)
            raise ExtractionError(
                f"layer {layer.name!r} gave an output of shape {shape} for a batch of {self._n}; "
                f"its first axis must be the batch, so leave this layer out"
            )
        if tensor.is_quantized:
            tensor = tensor.dequantize()
        if tensor.requires_grad:
            # Some poolings keep their input for the backward pass, where an in-place module that
            # runs later would spoil it.
            tensor = tensor.clone()
        try:
            # Autocast would run some reductions in half precision.
            with torch.autocast(tensor.device.type, enabled=False):
                mask = self._mask_of(tensor, layout)
                pooled = self._pool.at(layer.name)(tensor, layout, mask)
        except TransferMetricsError as error:
            raise type(error)(f"layer {layer.name!r}: {error}") from error
        if pooled.shape[1] != layer.dim:
            raise ExtractionError(
                f"layer {layer.name!r} gives {pooled.shape[1]} features for an output of shape "
                f"{tuple(tensor.shape)}, but {layer.dim} when it was listed with shape "
                f"{layer.shape}; where inputs differ in length or size use pool='avg' or 'max'"
            )
        self._features[layer.name] = pooled.clone() if _share_memory(pooled, tensor) else pooled

    def _mask_of(self, tensor: Tensor, layout: str) -> Tensor | None:
        """The mask at a layer's resolution; of ones where all that a shorter layer has counts."""
        positions = tensor.shape[2 if layout == "NCT" else 1]
        # Lengths that stay open in an export have no hash to look up.
        mask = self._masks.get(positions, self._mask) if self._masks else self._mask
        if mask is not None and positions < mask.shape[1] and mask.all():
            return mask[:, :positions]
        return mask


def _share_memory(one: Tensor, other: Tensor) -> bool:
    try:
        return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
    except RuntimeError:  # torch.export traces with tensors that have no memory
        return True


def _frame_masks(module: Any, mask: Tensor) -> dict[int, Tensor]:
    """The mask (N, T) of a batch of sounds at every resolution in time, by number of positions.

    A convolution shortens the sound and the padding behind it; so the mask of its output is that of
    the shortened length. The ``config`` of the network, or of its first part with one, tells
    kernels and strides; without such convolutions nothing is returned.
    """

    def mask_of(lengths: Tensor, total: int) -> Tensor:
        return (torch.arange(total, device=lengths.device) < lengths[:, None]).to(mask.dtype)

    parts = module.modules() if isinstance(module, nn.Module) else [module]
    config = next((part.config for part in parts if hasattr(part, "config")), None)
    chain = convolutions(config)
    if not chain:
        return {}
    masks = {mask.shape[1]: mask}
    lengths, total = mask.bool().sum(1), mask.shape[1]
    for kernel, stride, padding in chain:
        lengths = (lengths + 2 * padding - kernel).div(stride, rounding_mode="floor") + 1
        total = (total + 2 * padding - kernel) // stride + 1
        masks[total] = mask_of(lengths, total)
    if getattr(config, "num_conv_pos_embeddings", 1) % 2 == 0:
        # A convolution of even width for the positions adds a frame, which is cut off again.
        masks.setdefault(total + 1, mask_of(lengths + 1, total + 1))
    return masks
