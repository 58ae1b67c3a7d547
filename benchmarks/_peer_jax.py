"""The steps of `peers.py` in JAX with optax, compiled whole, with the old state's memory given."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from peers import CLASSES, FILTERS, NUMBER_OF_BATCHES, serve


def parameters_of(workload):
    """Return a dictionary of parameters, and one of batch normalization's moving averages."""
    rng = np.random.default_rng(0)
    parameters, averages = {}, {}

    def dense(name, inputs, outputs, bias=True):
        limit = np.sqrt(6.0 / (inputs + outputs))
        parameters[name] = rng.uniform(-limit, limit, [inputs, outputs])
        if bias:
            parameters[f"{name}_bias"] = np.zeros(outputs)

    def norm(name, size, moving=True):
        parameters[f"{name}_scale"], parameters[f"{name}_shift"] = np.ones(size), np.zeros(size)
        if moving:
            averages[name] = np.zeros(size), np.ones(size)

    if workload.name == "embedding":
        parameters["table"] = rng.uniform(-0.05, 0.05, [workload.ids, 64])
        dense("classes", 64, CLASSES)
    elif workload.name == "conv":
        for i, (before, filters) in enumerate(zip((3, *FILTERS), FILTERS, strict=False)):
            kernel = rng.normal(size=[3, 3, before, filters]) * np.sqrt(2.0 / (9 * before))
            parameters[f"kernel{i}"] = kernel
            norm(f"norm{i}", filters)
        dense("classes", 16 * FILTERS[-1], CLASSES)
    elif workload.name == "transformer":
        width = workload.shape[-1]
        for name in ("query", "key", "value", "out"):
            dense(name, width, width)
        dense("up", width, 4 * width)
        dense("down", 4 * width, width)
        dense("classes", width, CLASSES)
        norm("before", width, moving=False)
        norm("between", width, moving=False)
    else:
        for i in range(4):
            dense(f"dense{i}", 512, 512, bias=workload.name == "mlp")
            if workload.name == "mlp_norm":
                norm(f"norm{i}", 512)
        dense("classes", 512, CLASSES)
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (parameters, averages))


def forward(workload, parameters, averages, x):
    """Return the logits, and the new moving averages."""
    averages = dict(averages)

    def dense(name, x):
        y = x @ parameters[name]
        return y + parameters[f"{name}_bias"] if f"{name}_bias" in parameters else y

    def normalized(name, x, axes, epsilon):
        mean, variance = jnp.mean(x, axes, keepdims=True), jnp.var(x, axes, keepdims=True)
        y = (x - mean) * jax.lax.rsqrt(variance + epsilon)
        return y * parameters[f"{name}_scale"] + parameters[f"{name}_shift"], mean, variance

    def batch_norm(name, x):
        y, *moments = normalized(name, x, tuple(range(x.ndim - 1)), 1e-3)
        moving = zip(averages[name], moments, strict=True)
        averages[name] = tuple(0.99 * old + 0.01 * new.reshape(-1) for old, new in moving)
        return y

    def layer_norm(name, x):
        return normalized(name, x, -1, 1e-3)[0]

    if workload.name == "embedding":
        x = parameters["table"][x]
    elif workload.name == "conv":
        for i in range(len(FILTERS)):
            layout = "NHWC", "HWIO", "NHWC"
            kernel = parameters[f"kernel{i}"]
            x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)
            x = jax.nn.relu(batch_norm(f"norm{i}", x))
            window = 1, 2, 2, 1
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")
        x = x.reshape(len(x), -1)
    elif workload.name == "transformer":
        normal = layer_norm("before", x)
        split = (*x.shape[:-1], 4, -1)
        parts = [dense(name, normal).reshape(split) for name in ("query", "key", "value")]
        x = x + dense("out", jax.nn.dot_product_attention(*parts).reshape(x.shape))
        hidden = jax.nn.gelu(dense("up", layer_norm("between", x)), approximate=False)
        x = x + dense("down", hidden)
    else:
        for i in range(4):
            x = dense(f"dense{i}", x)
            x = jax.nn.relu(x if workload.name == "mlp" else batch_norm(f"norm{i}", x))
    return dense("classes", x), averages


def make_step(workload):
    parameters, averages = parameters_of(workload)
    adam = (
        optax.adam(1e-3) if workload.name == "embedding" else optax.adamw(1e-3, weight_decay=0.01)
    )
    x, y = workload.data()
    batches = [(jnp.asarray(x[i]), jnp.asarray(y[i])) for i in range(NUMBER_OF_BATCHES)]

    def loss_of(parameters, averages, x, y):
        logits, averages = forward(workload, parameters, averages, x)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        return jnp.mean(losses), averages

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state, x, y):
        parameters, averages, slots = state
        derivative = jax.value_and_grad(loss_of, has_aux=True)
        (loss, averages), gradients = derivative(parameters, averages, x, y)
        updates, slots = adam.update(gradients, slots, parameters)
        return (optax.apply_updates(parameters, updates), averages, slots), loss

    state = parameters, averages, adam.init(parameters)

    def step(number):
        nonlocal state
        state, loss = jax.block_until_ready(update(state, *batches[number]))
        return float(loss)

    return sum(p.size for p in parameters.values()), step


if __name__ == "__main__":
    serve(make_step)
