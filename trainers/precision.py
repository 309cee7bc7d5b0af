"""Which number format the layers compute in, and why."""

import keras
import tensorflow as tf

_BFLOAT16_COMPUTE_CAPABILITY = (8, 0)


def has_gpu() -> bool:
    """Whether TensorFlow sees a GPU."""
    return bool(tf.config.list_physical_devices("GPU"))


def choose(precision: str) -> tuple[str, str]:
    """Turns `--precision` into a Keras dtype policy.

    Args:
      precision: "auto", "float32", "bfloat16" or "float16".

    Returns:
      the policy's name and the reason for it.
    """
    if precision == "float32":
        return "float32", "asked for"
    if precision != "auto":
        return f"mixed_{precision}", "asked for"
    if not has_gpu():
        return "float32", "no GPU"
    capability = tf.config.experimental.get_device_details(tf.config.list_physical_devices("GPU")[0]).get(
        "compute_capability", (0, 0)
    )
    if capability >= _BFLOAT16_COMPUTE_CAPABILITY:
        return "mixed_bfloat16", "the GPU has bfloat16"
    return "mixed_float16", "the GPU has no bfloat16; the loss is scaled"


def apply(precision: str) -> str:
    """Sets the policy for all layers that are built from now on; returns one line that tells it."""
    policy, reason = choose(precision)
    keras.config.set_dtype_policy(policy)
    return f"precision: {policy} ({reason})"
