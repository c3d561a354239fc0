"""What each kind of device can do: arithmetic, memory and links, as published. Planning needs no compiler for it.

A `Hardware` holds peaks: what it says of time are estimates, and lower bounds. Its figures are those of one device as
JAX counts devices. Each stands under the page that it is from; where none is public, it says "assumed", and why.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, Final, Literal

from jbdot.core.errors import BadValue
from jbdot.core.text import table

Wraparound = Literal["never", "16", "cubes"]

_CUBE: Final = 4  # chips along each side of the block that optical switches connect, on v4, v5p and 7x
_POD: Final = 16  # chips along each side of a v5e or v6e pod, the only length that is closed to a ring


@dataclasses.dataclass(frozen=True)
class Hardware:
    """One kind of device. Bytes are bytes, rates are a second's, and links are counted one way.

    Attributes:
        name: What to call it.
        kinds: The `device_kind`s that JAX reports for it.
        peak: FLOP/s of a dot (OP/s of integers) by dtype: float64, float32, bfloat16 (and float16), int8, float8. A
            float32 dot is the one that JAX makes by default: one bfloat16 pass on a TPU, TF32 on a GPU. For
            precision="highest" multiply the FLOPs by the passes, six on a TPU.
        memory_bytes: Of memory.
        memory_bytes_per_s: At which memory is read and written.
        link_bytes_per_s: One way over one link of a torus, or from one device into its switch.
        hop_us: Latency of one step of a collective over such a link.
        start_us: Of any collective, before its first step.
        network_bytes_per_s: One way from one device to other slices or nodes.
        network_hop_us: Latency of one step there.
        torus: Dimensions of the torus; 0 where a switch connects every device with every other.
        wraparound: Which dimensions are closed to rings: see `wraps`.
        node: Devices behind one switch; 0 where there is no bound.
        cores: Cores of a chip.
        devices_per_chip: Devices that a chip shows as; they share its links.
        core_bytes_per_s: One way between two devices of one chip.
        short: Its short name, such as "v5e", which the topologies of the compilers begin with too.
        compiler: The platform whose compiler makes programs for it where none of it is: "tpu", "cuda", or none.
        compiler_options: What that compiler is told of it.
        clock_ghz: Of a TPU: peak FLOP/s over the multiply-adds of its matrix units, as the compiler estimates cycles.
        sources: Pages that the figures are from, and what is assumed.

    Example:
        >>> from jbdot.hardware import known
        >>> v5e = known("TPU v5 lite")
        >>> v5e.name, v5e.link_bytes_per_s, v5e.wraps(16, (16, 8)), v5e.wraps(8, (16, 8))
        ('TPU v5e', 45000000000.0, True, False)
        >>> f"{v5e.compute_us(2 * 8192**3, 'bfloat16', 3 * 2 * 8192**2):.0f} us"
        '5581 us'
    """

    name: str
    kinds: tuple[str, ...]
    peak: Mapping[str, float] = dataclasses.field(hash=False)
    memory_bytes: float
    memory_bytes_per_s: float
    link_bytes_per_s: float
    hop_us: float
    start_us: float
    network_bytes_per_s: float
    network_hop_us: float
    torus: int = 0
    wraparound: Wraparound = "never"
    node: int = 0
    cores: int = 1
    devices_per_chip: int = 1
    core_bytes_per_s: float = math.inf
    short: str = ""
    compiler: Literal["", "tpu", "cuda"] = ""
    compiler_options: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False, repr=False)
    clock_ghz: float = math.nan
    sources: tuple[str, ...] = ()

    def rate(self, dtype: str) -> float:
        """Gives the FLOP/s of a dot of this dtype at best; without one, that of the dtype that it is widened to.

        Example:
            >>> from jbdot.hardware import known
            >>> known("TPU v4").rate("float8_e5m2") == known("TPU v4").rate("bfloat16")
            True
        """
        if dtype.startswith("complex"):  # four real products
            return self.rate({"complex64": "float32"}.get(dtype, "float64")) / 4
        key = _KEYS.get(dtype) or ("float8" if dtype.startswith("float8") else "float32")
        while key not in self.peak:
            key = _WIDER[key]
        return self.peak[key]

    def compute_us(self, flops: float, dtype: str, bytes_touched: float) -> float:
        """Estimates a dot's time on one device: its FLOPs at the peak, or its bytes from memory once, the longer."""
        return 1e6 * max(flops / self.rate(dtype), bytes_touched / self.memory_bytes_per_s)

    def wraps(self, size: int, slice_shape: tuple[int, ...]) -> bool:
        """Says whether a dimension of a slice is closed to a ring.

        On v5e and v6e only a full side of a pod is. On v4, v5p and 7x optical switches close every dimension of a
        slice of whole cubes of 4x4x4, and none of a smaller one: 2x2x4 has no rings.

        Args:
            size: Chips along the dimension.
            slice_shape: Chips along each dimension.
        """
        if self.wraparound == "cubes":
            return all(extent % _CUBE == 0 for extent in (size, *slice_shape))
        return self.wraparound == "16" and size == _POD

    def split(self) -> "Hardware":
        """Describes one core of a chip that shows each as a device: half of all that it has; the links are shared."""
        return dataclasses.replace(
            self,
            name=f"{self.name}, one core",
            peak={dtype: rate / 2 for dtype, rate in self.peak.items()},
            memory_bytes=self.memory_bytes / 2,
            memory_bytes_per_s=self.memory_bytes_per_s / 2,
            network_bytes_per_s=self.network_bytes_per_s / 2,
            devices_per_chip=2,
        )

    def __str__(self) -> str:
        link = f"{self.torus}D torus" if self.torus else f"switch of {self.node or 'any number'}"
        rows = [
            *((f"{dtype} dot", f"{rate / 1e12:.4g} T/s") for dtype, rate in self.peak.items()),
            ("memory", f"{self.memory_bytes / 1e9:.4g} GB at {self.memory_bytes_per_s / 1e9:.4g} GB/s"),
            (link, f"{self.link_bytes_per_s / 1e9:.4g} GB/s a link, {self.hop_us:.3g} us a hop"),
            ("network", f"{self.network_bytes_per_s / 1e9:.4g} GB/s a device, {self.network_hop_us:.3g} us a hop"),
            ("collective", f"{self.start_us:.3g} us before the first hop"),
            *(("source", source) for source in self.sources),
        ]
        return f"{self.name}\n{table(rows)}"


# Which figure a dtype goes by, and which it falls back on: hardware that lacks a format computes in the next wider.
_KEYS: Final = {
    "float16": "bfloat16",
    **{name: name for name in ("bfloat16", "float32", "float64", "int8")},
    **dict.fromkeys(("uint8", "int4", "uint4", "int2", "uint2"), "int8"),
}
_WIDER: Final = {"float8": "bfloat16", "int8": "bfloat16", "bfloat16": "float32", "float64": "float32"}


@functools.cache
def known(device_kind: str) -> Hardware:
    """Returns the published figures for a `device_kind`, or for a short name such as "v5e" or "h100".

    They are those of whole chips where a chip can be one device.

    Raises:
        ValueError: None are known.

    Example:
        >>> from jbdot.hardware import known
        >>> known("NVIDIA H100 80GB HBM3").name, known("v5e").name
        ('NVIDIA H100 SXM', 'TPU v5e')
    """
    short = str(device_kind).lower()
    for hardware in KNOWN:
        if device_kind in hardware.kinds or (short and short == hardware.short):
            return hardware
    raise BadValue(
        "the device must be of a kind whose figures are known",
        f"{device_kind!r} is none of {', '.join(repr(kind) for hardware in KNOWN for kind in hardware.kinds)}, "
        f"or in short {', '.join(hardware.short for hardware in KNOWN if hardware.short)}",
        "Give a profile as hardware=: a jbdot.hardware.Hardware of your own, dataclasses.replace(known(...), ...) of a "
        "similar one, or what jbdot.devices.profile.profile(mesh) measures",
    )


def of_topology(topology: str) -> Hardware:
    """Returns the published figures for a topology as a compiler names it, such as "v5e:4x4" or "h100:8".

    Raises:
        ValueError: There is no such kind.

    Example:
        >>> from jbdot.hardware import of_topology
        >>> of_topology("v5p:4x4x4").name
        'TPU v5p'
    """
    kinds = {hardware.short: hardware for hardware in KNOWN if hardware.compiler}
    kind = topology.partition(":")[0]
    if kind not in kinds:
        raise BadValue("a topology must name a kind of device", repr(topology), f"One of {', '.join(kinds)}")
    return kinds[kind]


def of(device: Any) -> Hardware:
    """Returns the figures for a device, or the abstract device of an `AbstractMesh`: of one core where it is one."""
    hardware = known(device.device_kind)
    is_core = getattr(device, "num_cores", None) == 1 and hardware.cores > hardware.devices_per_chip
    return hardware.split() if is_core else hardware


# Pages. Those of a device are its `sources`.

_CLOUD: Final = "Cloud TPU documentation, https://docs.cloud.google.com/tpu/docs/"
_BOOK: Final = "How to Scale Your Model, https://jax-ml.github.io/scaling-book/"
_BOOK_TPUS: Final = f"{_BOOK}tpus: one way over a link, wraparound, network"
_BOOK_SHARDING: Final = f"{_BOOK}sharding: 1 us a hop, and 8 us measured for a gather of 3 hops, so 5 to start"
_BOOK_GPUS: Final = f"{_BOOK}gpus: memory, NVLink one way, nodes of 8; between those of H100 and later 400 Gb/s a GPU"
_TPU_INFO: Final = "JAX, jax/_src/tpu_info.py: int8 and float8, cores"
_NCCL: Final = (
    "NCCL, https://github.com/NVIDIA/nccl, src/graph/tuning.cc: 6.6 us to start, 0.6 us a hop over NVLink, 2.7 us over "
    "the network (ring, protocol LL)"
)
_LOCKWOOD: Final = "G. Lockwood's notes on NVIDIA's data sheets, https://glennklockwood.com/garden/processors/"
_NETWORK_ASSUMED: Final = "assumed: 50 us a step between slices (host to host with PCIe at both ends; none published)"

_TPU: Final = functools.partial(Hardware, compiler="tpu", hop_us=1.0, start_us=5.0, network_hop_us=50.0)
_GPU: Final = functools.partial(Hardware, hop_us=0.6, start_us=6.6, network_hop_us=2.7, node=8)


def _by_pass(bfloat16: float, **others: float) -> dict[str, float]:
    """Rates of a TPU: a float32 dot is one bfloat16 pass by default."""
    return {"float32": bfloat16, "bfloat16": bfloat16, **others}


# What XLA's GPU compiler is told of an H100.
_H100_CONFIG: Final = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: 84929347584 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
runtime_version { major: 12 minor: 8 } dnn_version_info { major: 9 minor: 7 }
platform_name: "CUDA" device_description_str: "NVIDIA H100 80GB HBM3"
"""

_A100: Final = _GPU(
    name="NVIDIA A100 SXM 80 GB",
    short="a100",
    kinds=("NVIDIA A100-SXM4-80GB",),
    peak={"float64": 1.95e13, "float32": 1.56e14, "bfloat16": 3.12e14, "int8": 6.24e14},
    memory_bytes=80e9,
    memory_bytes_per_s=2.039e12,
    link_bytes_per_s=3e11,
    network_bytes_per_s=2.5e10,
    sources=(
        f"{_LOCKWOOD}A100: peaks, memory",
        _BOOK_GPUS,
        _NCCL,
        "NVIDIA DGX A100, system specifications: eight adapters of 200 Gb/s between nodes",
    ),
)
_H100: Final = _GPU(
    name="NVIDIA H100 SXM",
    short="h100",
    compiler="cuda",
    compiler_options={"target_config": _H100_CONFIG},
    kinds=("NVIDIA H100 80GB HBM3",),
    peak={"float64": 6.69e13, "float32": 4.947e14, "bfloat16": 9.894e14, "int8": 1.979e15, "float8": 1.979e15},
    memory_bytes=80e9,
    memory_bytes_per_s=3.35e12,
    link_bytes_per_s=4.5e11,
    network_bytes_per_s=5e10,
    sources=(f"{_LOCKWOOD}h100: peaks, memory; H200 has the same peaks", _BOOK_GPUS, _NCCL),
)

# Of links the book gives what collectives reach, 4.5e10 and 9e10 one way. The data sheets' "bidirectional bandwidth per
# chip", by ports and directions, is 5e10 for v5e and 1e11 for v5p, v6e and 7x; XLA's TPU compiler assumes 4.48e10 for
# v4, 4.665e10 for v5e, 9.34e10 for v5p and v6e, 1.081e11 for 7x (as libtpu compiles; no page says so).
KNOWN: Final = (
    _TPU(
        name="TPU v4",
        short="v4",
        clock_ghz=1.05,
        # By default a v4 shows as one device for each core; on a real one it is one for each chip.
        compiler_options={"chip_config_name": "megacore"},
        kinds=("TPU v4",),
        peak=_by_pass(2.75e14, int8=2.75e14),
        memory_bytes=32 * 2**30,
        memory_bytes_per_s=1.2e12,
        link_bytes_per_s=4.5e10,
        network_bytes_per_s=6.25e9,
        torus=3,
        wraparound="cubes",
        cores=2,
        core_bytes_per_s=6e11,
        sources=(
            f"{_CLOUD}v4: peaks, memory",
            _BOOK_TPUS,
            _BOOK_SHARDING,
            _NETWORK_ASSUMED,
            "assumed: two cores that are devices of their own pass data at half the bandwidth of the memory they share",
        ),
    ),
    _TPU(
        name="TPU v5e",
        short="v5e",
        clock_ghz=1.5,
        kinds=("TPU v5 lite", "TPU v5e"),
        peak=_by_pass(1.97e14, int8=3.94e14),
        memory_bytes=16e9,
        memory_bytes_per_s=8.19e11,
        link_bytes_per_s=4.5e10,
        network_bytes_per_s=3.125e9,
        torus=2,
        wraparound="16",
        sources=(f"{_CLOUD}v5e: peaks, memory", _BOOK_TPUS, _BOOK_SHARDING, _NETWORK_ASSUMED),
    ),
    _TPU(
        name="TPU v5p",
        short="v5p",
        clock_ghz=1.75,
        kinds=("TPU v5", "TPU v5p"),
        peak=_by_pass(4.59e14, int8=9.18e14, float8=4.59e14),
        memory_bytes=95 * 2**30,
        memory_bytes_per_s=2.765e12,
        link_bytes_per_s=9e10,
        network_bytes_per_s=6.25e9,
        torus=3,
        wraparound="cubes",
        cores=2,
        core_bytes_per_s=1.38e12,
        sources=(
            f"{_CLOUD}v5p: peaks, memory, network",
            _TPU_INFO,
            _BOOK_TPUS,
            _BOOK_SHARDING,
            _NETWORK_ASSUMED,
            "assumed: two cores that are devices of their own pass data at half the bandwidth of the memory they share",
        ),
    ),
    _TPU(
        name="TPU v6e",
        short="v6e",
        clock_ghz=1.75,
        kinds=("TPU v6 lite", "TPU v6e"),
        peak=_by_pass(9.18e14, int8=1.836e15, float8=9.18e14),
        memory_bytes=32e9,
        memory_bytes_per_s=1.638e12,
        link_bytes_per_s=9e10,
        network_bytes_per_s=1.25e10,
        torus=2,
        wraparound="16",
        sources=(f"{_CLOUD}v6e: peaks, memory", _TPU_INFO, _BOOK_TPUS, _BOOK_SHARDING, _NETWORK_ASSUMED),
    ),
    _TPU(  # each of a chip's two cores is a device: half of the chip's figures
        name="TPU7x",
        short="tpu7x",
        clock_ghz=2.2,
        kinds=("TPU7x",),
        peak=_by_pass(2.307e15 / 2, float8=4.614e15 / 2),
        memory_bytes=96 * 2**30,
        memory_bytes_per_s=7.38e12 / 2,
        link_bytes_per_s=9e10,
        network_bytes_per_s=1.25e10 / 2,
        torus=3,
        wraparound="cubes",
        cores=2,
        devices_per_chip=2,
        core_bytes_per_s=6 * 9e10,
        sources=(
            f"{_CLOUD}tpu7x: peaks, memory; two devices a chip, whose connection is six times as fast as a link",
            _TPU_INFO,
            _BOOK_TPUS,
            _BOOK_SHARDING,
            _NETWORK_ASSUMED,
            "assumed: rings as on v5p, whose network it shares",
        ),
    ),
    _A100,
    dataclasses.replace(
        _A100,
        name="NVIDIA A100 SXM 40 GB",
        short="",
        kinds=("NVIDIA A100-SXM4-40GB",),
        memory_bytes=40e9,
        memory_bytes_per_s=1.555e12,
    ),
    _H100,
    dataclasses.replace(
        _H100,
        name="NVIDIA H200 SXM",
        short="h200",
        compiler="",
        kinds=("NVIDIA H200",),
        memory_bytes=141e9,
        memory_bytes_per_s=4.8e12,
    ),
    _GPU(
        name="NVIDIA B200",
        short="b200",
        kinds=("NVIDIA B200",),
        peak={"float64": 4e13, "float32": 1.1e15, "bfloat16": 2.25e15, "int8": 4.5e15, "float8": 4.5e15},
        memory_bytes=180e9,
        memory_bytes_per_s=8e12,
        link_bytes_per_s=9e11,
        network_bytes_per_s=5e10,
        sources=(
            f"{_LOCKWOOD}B200: peaks at 1,000 W",
            "NVIDIA DGX B200, https://www.nvidia.com/en-us/data-center/dgx-b200/: 1,440 GB in eight GPUs",
            _BOOK_GPUS,
            _NCCL,
        ),
    ),
    Hardware(  # a host's devices share its cores and its memory: what each has while all are at work
        name="CPU",
        kinds=("cpu",),
        peak={"float64": 3e10, "float32": 6e10, "bfloat16": 6e10},
        memory_bytes=math.inf,
        memory_bytes_per_s=7e9,
        link_bytes_per_s=6.5e9,
        hop_us=0.0,
        start_us=200.0,
        network_bytes_per_s=1e9,
        network_hop_us=300.0,
        sources=(
            "measured with profile(): eight devices of one process, 2-core AMD virtual machine, jax 0.10.2, 0.12.0.1",
            "measured: gathers between two processes of one or two devices over gloo's loopback, the same machine",
            "assumed: float64 at half the rate of float32; no bound of its own on the memory of a device",
        ),
    ),
)
