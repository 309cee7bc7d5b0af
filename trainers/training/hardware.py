"""What a run computes on: dtype policy, XLA, devices; each choice is printed with its reason."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from pipeline.errors import InputError
from pipeline.terminal import say
from trainers.tf_import import JAX
from trainers.training import hosts
from trainers.training_flags import Options

_BFLOAT16_COMPUTE_CAPABILITY = (8, 0)
_BFLOAT16_CPU_FLAGS = {"avx512_bf16", "amx_bf16"}
# The VGGs' large convolutions gain from it, basic_cnn does not; JAX has not been seen to be faster with it.
_FASTER_IN_BFLOAT16_ON_CPUS = {"vgg_frozen", "vgg_ft"}
_STEPS_PER_CALL_ON_GPUS = 32


class Hardware(NamedTuple):
    """What a run computes on."""

    policy: str  # Keras's dtype policy
    jit_compile: bool  # whether XLA compiles steps
    strategy: tf.distribute.Strategy | None  # for several devices of this machine
    distribution: keras.distribution.DataParallel | None = None  # for the devices of several hosts, see `hosts`

    @property
    def num_replicas(self) -> int:  # devices that share each batch
        if self.distribution:
            return self.distribution.num_model_replicas
        return self.strategy.num_replicas_in_sync if self.strategy else 1

    def scope(self) -> AbstractContextManager[object]:  # in which models are built and compiled
        return self.strategy.scope() if self.strategy else nullcontext()


def prepare(model: str, options: Options, policy: str | None) -> Hardware:
    """Chooses by the flags, or the `policy` of a run that continues, prints that, and sets Keras's dtype policy.

    Raises InputError if the batch cannot be shared evenly, or several devices are asked for where they cannot be had.
    """
    for gpu in tf.config.get_visible_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
    policy_reason = "as this run began"
    if policy is None or options.precision != "auto":
        policy, policy_reason = choose_precision(options.precision, model)
    distribution = None
    if options.distribute == "hosts":
        policy = hosts.same_on_all(policy)
        # Each host feeds its own slices; Keras would slice them again.
        distribution = keras.distribution.DataParallel(auto_shard_dataset=False)
        keras.distribution.set_distribution(distribution)
    keras.config.set_dtype_policy(policy)
    jit, jit_reason = choose_jit(options.jit_compile)
    strategy, devices = choose_strategy(options.distribute)
    used = Hardware(policy, jit, strategy, distribution)
    if options.batch_size % used.num_replicas:
        text = f"the {used.num_replicas} devices of --distribute={options.distribute}"
        raise InputError(f"--batch_size={options.batch_size} is no multiple of {text}; give one that is")
    if options.distribute == "mirrored" and used.num_replicas == 1:
        say("warning: --distribute=mirrored: there is one device only, which trains alone", to_stderr=True)
    if options.input == "device" and not gpus():
        say("warning: --input=device: there is no GPU; the cells lie in the CPU's memory", to_stderr=True)
    print(f"devices: {devices}")
    print(f"precision: {policy} ({policy_reason})")
    print(f"XLA: {'on' if jit else 'off'} ({jit_reason})")
    return used


def _is_on_jax() -> bool:
    return keras.backend.backend() == JAX


def gpus() -> list[Any]:
    """The GPUs of the backend that computes."""
    if not _is_on_jax():
        return tf.config.get_visible_devices("GPU")
    import jax

    return [device for device in jax.local_devices() if device.platform == "gpu"]


def describe_device(gpu: Any) -> str:
    """The name of one of `gpus`, such as NVIDIA H100 80GB HBM3."""
    if _is_on_jax():
        return gpu.device_kind
    return tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)


def _compute_capability(gpu: Any) -> tuple[int, ...]:
    if not _is_on_jax():
        return tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
    return tuple(map(int, str(getattr(gpu, "compute_capability", "0.0")).split(".")))


def choose_steps_per_call(steps_per_execution: str, steps_per_epoch: int) -> int:
    """Turns `--steps_per_execution` into a number; raises InputError if it is more than an epoch has."""
    if steps_per_execution == "auto":
        return min(_STEPS_PER_CALL_ON_GPUS, steps_per_epoch) if gpus() else 1
    if int(steps_per_execution) > steps_per_epoch:
        text = f"--steps_per_execution={steps_per_execution} is more than the {steps_per_epoch} steps of an epoch"
        raise InputError(f"{text}; give fewer, or auto")
    return int(steps_per_execution)


def choose_precision(precision: str, model: str) -> tuple[str, str]:
    """Turns `--precision` into a Keras dtype policy for a model by name, and the reason."""
    if precision != "auto":
        return precision if precision == "float32" else f"mixed_{precision}", "asked for"
    if gpus():
        if _compute_capability(gpus()[0]) >= _BFLOAT16_COMPUTE_CAPABILITY:
            return "mixed_bfloat16", "the GPU has bfloat16"
        return "mixed_float16", "the GPU has no bfloat16; the loss is scaled"
    if model in _FASTER_IN_BFLOAT16_ON_CPUS and not _is_on_jax() and cpu_has_bfloat16():
        return "mixed_bfloat16", f"the CPU has bfloat16, and {model} is faster with it"
    return "float32", f"no GPU, and {model} is no faster in bfloat16 on this CPU"


def cpu_has_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU has instructions for bfloat16, as Linux reports."""
    return cpuinfo.exists() and not _BFLOAT16_CPU_FLAGS.isdisjoint(cpuinfo.read_text().split())


def choose_jit(jit_compile: str) -> tuple[bool, str]:
    """Turns `--jit_compile` into whether XLA compiles, and the reason."""
    if jit_compile != "auto":
        return jit_compile == "true", "asked for"
    if _is_on_jax():
        return True, "JAX always compiles"
    return (True, "there is a GPU") if gpus() else (False, "it halves the speed on CPUs")


def choose_strategy(distribute: str) -> tuple[tf.distribute.Strategy | None, str]:
    """Turns `--distribute` into a strategy, None for one device, and a description; InputError for mirrored on JAX."""
    if _is_on_jax():
        if distribute == "mirrored":
            text = "--distribute=mirrored needs Keras's TensorFlow backend; this is jax"
            raise InputError(f"{text}: give --distribute=none, or unset KERAS_BACKEND")
        names = keras.distribution.list_devices()
        kind = names[0].partition(":")[0].upper()
        if distribute == "hosts":
            return None, f"{len(names)} × {kind} of several hosts on JAX"
        others = f", of {len(names)}: only on TensorFlow several share batches" if len(names) > 1 else ""
        return None, f"1 × {kind} on JAX{others}"
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    devices = [device.name for device in tf.config.list_logical_devices(kind)]
    if distribute == "mirrored" or (distribute == "auto" and kind == "GPU" and len(devices) > 1):
        return tf.distribute.MirroredStrategy(devices), f"{len(devices)} × {kind}, mirrored"
    return None, f"1 × {kind}"
