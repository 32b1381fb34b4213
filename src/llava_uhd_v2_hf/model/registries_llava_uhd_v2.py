# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Registries: the kinds of up-samplers, projectors, pooling-grid rules and vision towers, by their names in a config.

To add a kind, write its class and register it before a config names it: `UPSAMPLERS["mine"] = MyUpsampler`.
docs/architecture.md has an example of each. This module imports no torch; the kinds of this folder are imported when
they are first asked for.
"""

from functools import lru_cache
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    # transformers copies the files that relative imports name when it loads a model's code, these too
    from .extensions_llava_uhd_v2 import EXTENSIONS as _extensions
    from .projectors_hiwin_llava_uhd_v2 import LlavaUhdV2Projector as _hiwin
    from .projectors_mlp_llava_uhd_v2 import LlavaUhdV2MlpProjector as _mlp
    from .projectors_mlp_pyramid_llava_uhd_v2 import LlavaUhdV2MlpPyramidProjector as _mlp_pyramid
    from .projectors_perceiver_llava_uhd_v2 import LlavaUhdV2PerceiverProjector as _perceiver
    from .projectors_uhd_v1_llava_uhd_v2 import LlavaUhdV2UhdV1Projector as _uhd_v1
    from .towers_llava_uhd_v2 import ClipTower as _towers
    from .upsamplers_bilinear_llava_uhd_v2 import LlavaUhdV2BilinearUpsampler as _bilinear
    from .upsamplers_deconvolution_llava_uhd_v2 import LlavaUhdV2DeconvolutionUpsampler as _deconvolution
    from .upsamplers_vdim_llava_uhd_v2 import LlavaUhdV2Upsampler as _vdim

    _KINDS = (_bilinear, _deconvolution, _extensions, _hiwin, _mlp, _mlp_pyramid, _perceiver, _towers, _uhd_v1, _vdim)


class Registry(dict[str, Any]):
    """The kinds of one thing by name. Built-in kinds are given as "module.name" and imported when first asked for.

    Args:
        kind: what is registered, for messages.
        interface: attributes that every registered class must have.
        built_in: name in a config -> "module.name" of this folder.

    Raises (from a look-up):
        ValueError: if no kind of that name is registered, or the class lacks a part of the interface; from a
            registration, if there is another kind of that name.
    """

    def __init__(self, kind: str, interface: tuple[str, ...], built_in: dict[str, str]):
        super().__init__(built_in)
        self.built_in = frozenset(built_in)
        self.kind = kind
        self.interface = interface

    def __getitem__(self, name: str) -> Any:
        self.check(name, "the name in the registry")
        entry = super().__getitem__(name)
        if isinstance(entry, str):
            module, _, attribute = entry.rpartition(".")
            entry = getattr(import_sibling(module), attribute)
            super().__setitem__(name, entry)
        if missing := [part for part in self.interface if not _has(entry, part)]:
            raise ValueError(
                f"The {self.kind} `{name}`, {entry.__module__}.{entry.__qualname__}, lacks {', '.join(missing)}; "
                f"the interface is: {', '.join(self.interface)}."
            )
        return entry

    def __setitem__(self, name: str, entry: Any) -> None:
        known = self.get(name, entry)
        if isinstance(known, str) or _identity(known) != _identity(entry):
            raise ValueError(f"The {self.kind} `{name}` is registered already, {known}; choose another name.")
        super().__setitem__(name, entry)

    def check(self, name: str, field: str) -> None:
        """Looks whether a kind of that name is registered, without importing it.

        Args:
            name: of the kind.
            field: of the config that has the name, for the message.

        Raises:
            ValueError: if not; lists the registered names.
        """
        load_extensions()
        if name not in self:
            raise ValueError(
                f"`{field}`: the {self.kind} `{name}` is not supported. Choose one of {', '.join(self)}, or import the"
                " module that registers it first (in commands, `llava-uhd-v2 --extension FILE`)."
            )


def _identity(entry: Any) -> tuple[str, str]:
    """Module and name of a class or function: a module that is imported again defines the same anew."""
    return getattr(entry, "__module__", ""), getattr(entry, "__qualname__", repr(entry))


def _has(entry: Any, part: str) -> bool:
    """Whether a class has a part of an interface itself: the `forward` of `nn.Module` only raises an error."""
    attribute = getattr(entry, part, _has)
    return attribute is not _has and getattr(attribute, "__name__", "") != "_forward_unimplemented"


def import_sibling(name: str) -> ModuleType:
    """Imports a module of this folder."""
    return import_module(f".{name}", __name__.rpartition(".")[0])


@lru_cache
def load_extensions() -> None:
    """Imports the modules that register kinds from outside: a folder with code names those of its model."""
    import_sibling("extensions_llava_uhd_v2")  # by name: an extension that is being imported may ask a registry


UPSAMPLERS = Registry(
    "up-sampler",
    ("forward", "reset_parameters", "linear_levels"),
    {
        "vdim": "upsamplers_vdim_llava_uhd_v2.LlavaUhdV2Upsampler",
        "bilinear": "upsamplers_bilinear_llava_uhd_v2.LlavaUhdV2BilinearUpsampler",
        "deconvolution": "upsamplers_deconvolution_llava_uhd_v2.LlavaUhdV2DeconvolutionUpsampler",
    },
)
PROJECTORS = Registry(
    "projector",
    ("forward", "reset_parameters", "token_grid", "regions", "memory", "dtype"),
    {
        "hiwin": "projectors_hiwin_llava_uhd_v2.LlavaUhdV2Projector",
        "uhd_v1": "projectors_uhd_v1_llava_uhd_v2.LlavaUhdV2UhdV1Projector",
        "mlp_pyramid": "projectors_mlp_pyramid_llava_uhd_v2.LlavaUhdV2MlpPyramidProjector",
        "perceiver": "projectors_perceiver_llava_uhd_v2.LlavaUhdV2PerceiverProjector",
        "mlp": "projectors_mlp_llava_uhd_v2.LlavaUhdV2MlpProjector",
    },
)
TOWERS = Registry(
    "vision tower",
    ("embed", "run_layers", "patches", "feature_map", "layers", "attention", "embedding_modules", "unread_parameters")
    + ("stride", "width", "wide_layer_size"),
    {
        "clip_vision_model": "towers_llava_uhd_v2.ClipTower",
        "siglip_vision_model": "towers_llava_uhd_v2.SiglipTower",
        "dinov2": "towers_llava_uhd_v2.Dinov2Tower",
    },
)
# functions (height and width of a view in patches, level, candidates) -> (rows, columns) of cells in a window
POOLING_GRIDS = Registry(
    "rule for pooling grids",
    ("__call__",),
    {
        "selective": "geometry_llava_uhd_v2.selective_pooling_grid",
        "fixed": "geometry_llava_uhd_v2.fixed_pooling_grid",
        "pyramid": "geometry_llava_uhd_v2.pyramid_pooling_grid",
    },
)


__all__ = ["POOLING_GRIDS", "PROJECTORS", "TOWERS", "UPSAMPLERS", "Registry", "load_extensions"]
