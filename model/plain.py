"""Turn a plain `torch.nn.Module` into a variant. Its knobs, parameters and FLOPs are read from the class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self

import torch
from pydantic import create_model
from torch import Tensor, nn

from .contracts import Architecture, Part, Variant
from .errors import ConfigError
from .flops import ForwardFlops, measure_flops
from .foreign import Foreign, construct, describe_parameters, find_ambiguous, find_bad_names, has_square
from .own_modules import as_own_error
from .parameters import Spec
from .signature import read_signature

FACTS: Mapping[str, Callable[[Architecture, int], int]] = {
    "d_model": lambda config, _: config.d_model,
    "n_heads": lambda config, _: config.n_heads,
    "layer": lambda _, layer: layer,
    "n_layers": lambda config, _: config.n_layers,
    "context_length": lambda config, _: config.context_length,
    "d_ff": lambda config, _: config.d_ff,
    "vocab_size": lambda config, _: config.vocab_size,
}
LARGEST_ON_CPU = 20_000_000  # numbers in a forward pass that takes well under a second


@dataclass(frozen=True)
class Measured:
    """What the parameters of a module were found to be, for one set of sizes and knobs."""

    n_params: int
    specs: Mapping[str, Spec]
    ambiguous: tuple[str, ...]  # square parameters of unknown direction


class Plain(Variant):
    """A variant around the user's `target` class. Its constructor gets the `facts` that it asks for, and its knobs."""

    OFFERED: ClassVar[tuple[str, ...]] = tuple(FACTS)
    target: ClassVar[type[nn.Module]]
    facts: ClassVar[tuple[str, ...]]

    @classmethod
    def adapt(cls, target: type[nn.Module], name: str, version: str) -> type[Self]:
        """Make the variant of a module. Raises ConfigError for a constructor that cannot be called from a grid."""
        signature = read_signature(target, cls.OFFERED, dir(cls))
        made: type[Self] = create_model(
            target.__name__, __base__=cls, __module__=target.__module__, __doc__=target.__doc__, **signature.knobs
        )
        first = (target.__doc__ or "").strip().splitlines()
        made.name, made.version, made.target, made.facts = name, version, target, signature.facts
        made.summary = first[0] if first else f"the module {target.__name__}"
        made.paper = made.equations = made.deviations = made.neutral = ""
        return made

    def values(self, config: Architecture, layer: int) -> dict[str, int]:
        """Return the facts that the constructor asks for."""
        return {fact: FACTS[fact](config, layer) for fact in self.facts}

    def maker(self, config: Architecture, layer: int) -> Callable[[], nn.Module]:
        """Return the call of the constructor."""
        knobs = {name: getattr(self, name) for name in type(self).model_fields}
        return partial(self.target, **self.values(config, layer), **knobs)

    def build_foreign(self, kind: type[Foreign], config: Architecture, layer: int) -> Foreign:
        """Build the module with the specs of its parameters."""
        return kind(self.maker(config, layer), self.measure(config, layer).specs)

    def call(self, module: nn.Module, x_btd: Tensor) -> Any:
        """Call the module outside a model, where tokens have no position."""
        return module(x_btd)

    def measure(self, config: Architecture, layer: int = 0) -> Measured:
        """Describe the parameters of one layer. Raises OwnCodeError with the line of the user's file that failed."""
        key = "parameters", *self._key(config, layer)
        if key not in _found:
            use = partial(self._measure, config=config, layer=layer)
            _found[key] = self._try_devices(("meta", "cpu"), use)
        measured: Measured = _found[key]
        return measured

    def flops(self, config: Architecture, layer: int = 0) -> ForwardFlops:
        """Count the FLOPs of one layer. Raises OwnCodeError with the line of the user's file that failed."""
        key = "flops", *self._key(config, layer)
        if key not in _found:
            n_values = self.measure(config, layer).n_params + config.context_length * (
                config.d_model + config.n_heads * config.context_length
            )
            # the first use of the meta device loads torch's compiler, which takes seconds
            devices = ("cpu", "meta") if n_values <= LARGEST_ON_CPU else ("meta", "cpu")
            _found[key] = self._try_devices(devices, partial(self._count, config=config, layer=layer))
        flops: ForwardFlops = _found[key]
        return flops

    def _key(self, config: Architecture, layer: int) -> tuple[object, ...]:
        values = {"d_model": config.d_model, "unit": config.normalization.has_unit_weights_after_step}
        values |= {"context_length": config.context_length, **self.values(config, layer)}
        return type(self), repr(self), config.n_heads, tuple(sorted(values.items()))

    def _try_devices(self, devices: tuple[str, ...], use: Callable[[str], Any]) -> Any:
        """Return what the first of these devices gives that the module works on; a GPU comes last."""
        devices += ("cuda",) if torch.cuda.is_available() else ()
        for device in devices:
            try:
                with torch.random.fork_rng(devices=[]):
                    return use(device)
            except ConfigError:
                raise
            except (Exception, SystemExit) as error:
                if device == devices[-1]:
                    raise as_own_error(error, f"{self.name} cannot be built or called") from error
        raise AssertionError("there is at least one device")

    def _construct(self, device: str, config: Architecture, layer: int) -> nn.Module:
        with torch.device(device):
            return construct(self.maker(config, layer)).eval()

    def _count(self, device: str, config: Architecture, layer: int) -> ForwardFlops:
        module = self._construct(device, config, layer)

        def run(length: int) -> Any:
            return self.call(module, torch.zeros(1, length, config.d_model, device=device))

        return measure_flops(run, config.context_length)

    def _measure(self, device: str, config: Architecture, layer: int) -> Measured:
        module = self._construct(device, config, layer)
        unit_axes, roles = getattr(self.target, "unit_axes", {}), getattr(self.target, "roles", {})
        for attribute, named in (("unit_axes", unit_axes), ("roles", roles)):
            if wrong := find_bad_names(module, named):
                known = [name for name, _ in module.named_parameters()]
                raise ConfigError(
                    "name", f"{self.name}: {attribute} names {wrong[0]!r}, which is not a parameter", known
                )
        writers = self._find_writers(config, layer) if has_square(module, config.d_model) else frozenset()
        return Measured(
            n_params=sum(parameter.numel() for parameter in module.parameters()),
            specs=describe_parameters(module, config.d_model, writers, unit_axes, roles),
            ambiguous=tuple(find_ambiguous(module, config.d_model, unit_axes)),
        )

    def _find_writers(self, config: Architecture, layer: int) -> frozenset[str]:
        """Return the weights of the linear layers whose output is the module's."""
        if not config.normalization.has_unit_weights_after_step:
            return frozenset()  # only nGPT asks
        module = self._construct("cpu", config, layer)
        names = {part: f"{name}.weight".lstrip(".") for name, part in module.named_modules()}
        returned: dict[str, Any] = {}

        def note(part: nn.Module, _: object, output: object) -> None:
            returned[names[part]] = output

        for part in names:
            if isinstance(part, nn.Linear):
                part.register_forward_hook(note)
        with torch.no_grad():
            out = self.call(module, torch.zeros(1, min(config.context_length, 8), config.d_model))
        return frozenset(name for name, output in returned.items() if output is out)

    def check(self, config: Architecture) -> None:
        if config.linear.has_input_norm:
            message = f"{config.linear.name} brings its own norms, and {self.name} has linear layers of its own"
            raise ConfigError("linear.name", message, ["dense"])
        if config.normalization.has_unit_weights_in_forward:
            knob = "normalization.normalize_weights"
            message = f"the weights of {self.name} are normalized only after a step"
            raise ConfigError(knob, message, ["post_step", "off"])
        ambiguous = self.measure(config).ambiguous if config.normalization.has_unit_weights_after_step else ()
        if ambiguous:
            message = (
                f"{self.name}: {ambiguous[0]} is square, so nGPT cannot tell which of its dimensions runs along "
                f"d_model: write unit_axes = {{{ambiguous[0]!r}: 0}} in the class (or 1, or None for a free weight)"
            )
            raise ConfigError("normalization.name", message)

    def notices(self, config: Architecture) -> tuple[str, ...]:
        flops, found = self.flops(config), []
        if not flops.is_fitted:
            found.append(
                f"the FLOPs of {self.name} are not a polynomial of the length, so they are counted as executed, "
                "including masked positions"
            )
        if flops.ignored:
            found.append(f"the FLOPs of {self.name} leave out {', '.join(flops.ignored)}")
        if config.weight_dtype != "float32":
            found.append(f"the weights of {self.name} stay float32")
        if config.bias:
            found.append(f"bias has no effect on {self.name}")
        return tuple(found)


_found: dict[Any, Any] = {}  # what was measured, once per class, sizes and knobs


class PlainLayer(Plain):
    """A module that stands in every layer of the model: an attention or an MLP."""

    part: ClassVar[Part]

    def num_params(self, config: Architecture) -> int:
        return self.measure(config).n_params

    def flops_per_token(self, config: Architecture, context_length: int) -> int:
        return self.flops(config).per_token(context_length)

    def model_params(self, config: Architecture) -> int:
        return sum(self.measure(config, depth).n_params for depth in self._depths(config))

    def model_flops_per_token(self, config: Architecture, context_length: int) -> int:
        return sum(self.flops(config, depth).per_token(context_length) for depth in self._depths(config))

    def _depths(self, config: Architecture) -> list[int]:
        """Depths to measure, one per layer that keeps the part: all 0 if the module does not ask for its own."""
        depths = config.kept_depths(self.part)
        return depths if "layer" in self.facts else [0] * len(depths)
