"""How strongly each adapter of a layer acts, and the calls of peft and diffusers that change it.

    cross_attention_kwargs={"scale": 0.3}  ->  scale_layer(0.3), forward, unscale_layer(0.3)

A strength is what a user puts on an adapter: 0 is the base, 1 as trained. An adapter at strength 0
still acts: it is the limit of small strengths, where a learned word reads as its class word. What
is scaled for one call is put back exactly, to the number that was there before.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from peft.tuners.tuners_utils import BaseTunerLayer


class Movable:
    """The values of one adapter of a layer, as diffusers' set_lora_device moves them."""

    def __init__(self, layer: Strengths, adapter: str) -> None:
        self.layer, self.adapter = layer, adapter

    def to(self, device: object) -> None:
        """Move them; a basis that other adapters share stays where it is."""
        self.layer.move_adapter(self.adapter, device)


class MovableAdapters(Mapping):
    """Adapter -> its values, to be moved to another device; a view of what the layer has."""

    def __init__(self, layer: Strengths) -> None:
        self.layer = layer

    def __getitem__(self, adapter: str) -> Movable:
        if adapter not in self._held():
            raise KeyError(adapter)
        return Movable(self.layer, adapter)

    def __iter__(self) -> Iterator[str]:
        return iter(self._held())

    def __len__(self) -> int:
        return len(self._held())

    def _held(self) -> Mapping:
        return getattr(self.layer, self.layer.adapter_layer_names[0])


class Strengths(BaseTunerLayer):
    """A tuner layer that holds `svfit_scaling`: adapter -> strength."""

    # What diffusers reads of every adapter layer, whatever its method: layerwise casting; how many
    # LoRAs there are, for the name of one more; set_lora_device.
    cast_input_dtype_enabled = True
    r: Mapping[str, int] = MappingProxyType({})

    @property
    def lora_A(self) -> MovableAdapters:  # noqa: N802, diffusers' name
        """Adapter -> its values, to be moved to another device."""
        return MovableAdapters(self)

    lora_B = lora_A  # noqa: N815

    def start_strengths(self) -> None:
        """No adapter, all enabled, nothing merged."""
        self.svfit_scaling: dict[str, float] = {}
        self._before_scaling: list[tuple[float, dict[str, float]]] = []
        self._trainable: dict[tuple[str, str], bool] | None = None
        self._disable_adapters = False
        self._active_adapter: list[str] | str = "default"
        self.merged_adapters: list[str] = []

    @property
    def present_adapters(self) -> list[str]:
        """The active adapters that this layer has."""
        return self._present(self.active_adapters)

    def acts(self, adapter: str) -> bool:
        """Whether an adapter acts now, be it at strength 0."""
        active = not self._disable_adapters and adapter in self.present_adapters
        return active or adapter in self.merged_adapters

    def strength(self, adapter: str) -> float:
        """The strength at which an adapter acts now; 0 where it does not."""
        if adapter in self.merged_adapters:
            return self.merged_strength(adapter)
        return self.svfit_scaling[adapter] if self.acts(adapter) else 0.0

    def merged_strength(self, adapter: str) -> float:
        """The strength at which an adapter was merged."""
        raise NotImplementedError

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        """Make exactly the named adapters act; what is merged is unmerged first, if it changes."""
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        if self.merged and set(self.merged_adapters) != set(self._present(names)):
            self._unmerge_first()
        self._before_scaling.clear()
        super().set_adapter(names, inference_mode)

    def enable_adapters(self, enabled: bool) -> None:
        """Switch all adapters on or off; whether their values are trained stays as it was."""
        values = {(a, n): p for a in self.adapter_layer_names for n, p in getattr(self, a).items()}
        if not enabled and not self._disable_adapters:
            self._trainable = {n: _requires_grad(p) for n, p in values.items()}
        super().enable_adapters(enabled)
        if enabled and self._trainable is not None:
            for name, trained in self._trainable.items():
                if name in values:
                    values[name].requires_grad_(trained)
            self._trainable = None

    def set_scale(self, adapter: str, scale: float) -> None:
        """Set the strength of an adapter: 0 is the base, 1 as trained."""
        if adapter not in self.svfit_scaling:
            return
        if self._before_scaling and self._before_scaling[-1][0] == 0 and scale == 1.0:
            # diffusers' way to end scale_layer(0), by which it cannot divide
            before = self._before_scaling[-1][1]
            self.svfit_scaling[adapter] = before.pop(adapter, 1.0)
            if not before:
                self._before_scaling.pop()
            return
        if adapter in self.merged_adapters and scale != self.merged_strength(adapter):
            self._unmerge_first()
        self.svfit_scaling[adapter] = scale

    def scale_layer(self, scale: float) -> None:
        """Multiply the strength of the active adapters by `scale`."""
        before = {name: self.svfit_scaling[name] for name in self.present_adapters}
        self._before_scaling.append((scale, before))
        self.svfit_scaling.update({name: value * scale for name, value in before.items()})

    def unscale_layer(self, scale: float | None = None) -> None:
        """Undo scale_layer(scale); None puts the strength of the active adapters back to 1."""
        if scale is None:
            self._before_scaling.clear()
            self.svfit_scaling.update(dict.fromkeys(self.present_adapters, 1.0))
        elif self._before_scaling and self._before_scaling[-1][0] == scale:
            self.svfit_scaling.update(self._before_scaling.pop()[1])
        else:
            for name in self.present_adapters:
                self.svfit_scaling[name] /= scale

    def move_adapter(self, adapter: str, device: object) -> None:
        """Move an adapter's values to a device."""
        raise NotImplementedError

    def drop(self, adapter: str) -> None:
        """Delete an adapter without making another one active in its place."""
        self._active_adapter = [name for name in self.active_adapters if name != adapter]
        self.delete_adapter(adapter)

    def _present(self, adapters: list[str] | tuple[()]) -> list[str]:
        held = getattr(self, self.adapter_layer_names[0])
        return [name for name in adapters if name in held]

    def _unmerge_first(self) -> None:
        names = ", ".join(sorted(set(self.merged_adapters)))
        warnings.warn(
            f"{names} is fused into the weights, so it is unfused before strengths change; fuse "
            "again afterwards.",
            stacklevel=3,
        )
        self.unmerge()


def _requires_grad(values: object) -> bool:
    """Whether a parameter, or any parameter of a module, is trained."""
    if hasattr(values, "parameters"):
        return any(p.requires_grad for p in values.parameters())
    return values.requires_grad
