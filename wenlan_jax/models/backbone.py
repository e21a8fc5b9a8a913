"""What an image backbone is. `efficientnet.py`, `resnet.py` and `vit.py` are some."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float

from wenlan_jax.models.arrays import Array


@runtime_checkable
class Backbone(Protocol):
    """A Linen module that maps images to feature maps.

    Its parameters are float32, and it computes in the dtype it was made with. Running statistics, if it has any, are in
    the collection `batch_stats`.
    """

    @property
    def channels(self) -> int:
        """The width of the map."""
        ...

    def __call__(
        self, images: Float[Array, "batch height width 3"], train: bool
    ) -> Float[Array, "batch map_height map_width channels"]:
        """Computes feature maps.

        Args:
            images: normalised RGB.
            train: turns on what differs in training, such as the statistics of the batch.

        Returns:
            One feature map an image.
        """
        ...

    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Any:
        """Initialises the variables, see `flax.linen.Module.init`."""
        ...

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls the module with variables, see `flax.linen.Module.apply`."""
        ...
