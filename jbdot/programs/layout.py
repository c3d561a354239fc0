"""A layout of a program: for each mesh axis the labels that it cuts, in order; an array is cut along its first."""

import dataclasses
from collections.abc import Mapping

from jbdot.core.labels import Shape
from jbdot.many_devices.block import Sharding

Label = int


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where all arrays of a program are cut.

    A mesh axis cuts each array along the first of its labels that the array has, and that comes out in equal parts. So
    an axis that has the batch first and then a label of parameters cuts activations by samples and parameters at rest
    by that label: they are gathered for use, which is FSDP. An axis that has labels of parameters alone is tensor
    parallel. Where several cut one axis of an array, those come first, as the slowest, that have its label
    earlier: what the others cut is then gathered and scattered within each part.

    Attributes:
        orders: For each axis of the mesh, in its order, the labels that it cuts.

    Example:
        >>> from jbdot.programs.layout import Layout
        >>> fsdp_and_tensor = Layout({"x": (0, 1), "y": (2,)})
        >>> mesh = {"x": 4, "y": 2}
        >>> fsdp_and_tensor.sharding((0, 1), (64, 32), mesh)  # samples and features
        (('x',), ())
        >>> fsdp_and_tensor.sharding((1, 2), (32, 128), mesh)  # a matrix of parameters
        (('x',), ('y',))
    """

    orders: Mapping[str, tuple[Label, ...]]

    def sharding(self, labels: tuple[Label | None, ...], shape: Shape, mesh: Mapping[str, int]) -> Sharding:
        """Returns the mesh axes that cut each axis of an array."""
        parts = [1] * len(shape)
        found: list[list[tuple[int, str]]] = [[] for _ in shape]
        for axis, order in self.orders.items():
            size = mesh[axis]
            at = next(
                (
                    (dim, place)
                    for place, label in enumerate(order)
                    for dim, other in enumerate(labels)
                    if other == label and shape[dim] % (parts[dim] * size) == 0
                ),
                None,
            )
            if at is not None:
                parts[at[0]] *= size
                found[at[0]].append((at[1], axis))
        return tuple(tuple(axis for _, axis in sorted(cut, key=lambda pair: pair[0])) for cut in found)

    def replaced(self, axis: str, order: tuple[Label, ...]) -> "Layout":
        """Returns the layout with other labels on one mesh axis."""
        return Layout({**self.orders, axis: order})

    @property
    def key(self) -> tuple[tuple[Label, ...], ...]:
        """Returns the orders alone, by which layouts of one mesh are told apart."""
        return tuple(self.orders.values())
