"""From canonical site paths to the modules of a living network, and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from weft.core.network import Network
from weft.core.view import ModelView, Site
from weft.errors import SiteError, nearest

TRUNK_PREFIX = "trunk.model."  # a trunk keeps its transformers model at attribute ``model``
HEAD_PREFIX = "heads."


class SiteMap:
    """The modules of ``network`` by canonical site path.

    Args:
        network: its trunk keeps the transformers model at attribute ``model``.
        view: the description made of the same network (``weft.model.describe``).
    """

    def __init__(self, network: Network, view: ModelView) -> None:
        self.network = network
        self.view = view
        self._sites = {site.path: site for site in view.sites}

    def site(self, path: str) -> Site:
        """Return the site at ``path``.

        Raises:
            SiteError: no such site.
        """
        if path not in self._sites:
            raise SiteError(
                f"{path}: must be a site of this {self.view.architecture}. {nearest(path, self._sites)}"
            )
        return self._sites[path]

    def module(self, path: str) -> nn.Module:
        """Return the module that stands at site ``path``."""
        return _descend(self.network, self._module_name(path).split("."))

    def replace(self, path: str, module: nn.Module) -> None:
        """Put ``module`` at site ``path``; it must keep the old one's parameters under their local names."""
        *parents, last = self._module_name(path).split(".")
        _children(_descend(self.network, parents))[last] = module

    def parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield every distinct parameter once under its canonical path, in view order, tied aliases left out."""
        seen: set[int] = set()
        for site in self.view.sites:
            tied = {info.path for info in site.params if info.tied_to is not None}
            for name, parameter in self.module(site.path).named_parameters():
                path = f"{site.path}.{name}"
                if id(parameter) not in seen and path not in tied:
                    seen.add(id(parameter))
                    yield path, parameter

    def _module_name(self, path: str) -> str:
        site = self.site(path)
        return path if path.startswith(HEAD_PREFIX) else TRUNK_PREFIX + site.raw


def _descend(module: nn.Module, names: Sequence[str]) -> nn.Module:
    for name in names:
        module = _children(module)[name]
    return module


def _children(module: nn.Module) -> dict[str, nn.Module]:
    """Return the modules within ``module`` as it keeps them: ``getattr`` would find its methods first (``train``)."""
    return vars(module)["_modules"]
