"""What to write in JAX for the names of `keras.backend` that are no products: one line for each.

The Keras dialects answer such a name with its line, and the site's page on ports shows them all. There is none for
what needs more than a line: `rnn`, `ctc_*`, `separable_conv*`, `local_conv*`, transposed convolutions; and none for
sessions, placeholders and Keras' own state.

Source: keras/backend/tensorflow_backend.py of Keras 2.2.4, tf_keras/src/backend.py of tf_keras 2.21.
"""

from typing import Final

# By the call, with K's own arguments: the line, with jnp for jax.numpy and np for numpy. Images have their channels
# last.
LINES: Final[dict[str, str]] = {
    # What Keras is set to, and what an array is
    "floatx()": "'float32'",
    "epsilon()": "1e-7",
    "image_data_format()": "'channels_last'",
    "shape(x)": "x.shape",
    "int_shape(x)": "x.shape",
    "get_variable_shape(x)": "x.shape",
    "ndim(x)": "x.ndim",
    "dtype(x)": "x.dtype.name",
    "count_params(x)": "x.size",
    "is_tensor(x)": "isinstance(x, jax.Array)",
    "is_sparse(tensor)": "isinstance(tensor, jax.experimental.sparse.BCOO)",
    "to_dense(tensor)": "tensor.todense()",
    # Made, read and changed: an array of JAX is not written into, and the new one is the result
    "constant(value, dtype=None, shape=None)": (
        "jnp.full(shape or np.shape(value), jnp.array(value), dtype or 'float32')"
    ),
    "variable(value, dtype=None)": "jnp.array(value, dtype or 'float32')",
    "zeros(shape, dtype=None)": "jnp.zeros(shape, dtype)",
    "ones(shape, dtype=None)": "jnp.ones(shape, dtype)",
    "eye(size, dtype=None)": "jnp.eye(size, dtype=dtype)",
    "zeros_like(x, dtype=None)": "jnp.zeros_like(x, dtype)",
    "ones_like(x, dtype=None)": "jnp.ones_like(x, dtype)",
    "arange(start, stop=None, step=1, dtype='int32')": "jnp.arange(start, stop, step, dtype)",
    "cast(x, dtype)": "x.astype(dtype)",
    "cast_to_floatx(x)": "jnp.asarray(x, 'float32')",
    "identity(x)": "x",
    "eval(x)": "np.asarray(x)",
    "get_value(x)": "np.asarray(x)",
    "batch_get_value(ops)": "[np.asarray(x) for x in ops]",
    "update(x, new_x)": "new_x",
    "update_add(x, increment)": "x + increment",
    "update_sub(x, decrement)": "x - decrement",
    "moving_average_update(x, value, momentum)": "x * momentum + value * (1 - momentum)",
    # Element by element
    "abs(x)": "jnp.abs(x)",
    "sign(x)": "jnp.sign(x)",
    "round(x)": "jnp.round(x)",
    "square(x)": "jnp.square(x)",
    "sqrt(x)": "jnp.sqrt(jnp.maximum(x, 0))",
    "exp(x)": "jnp.exp(x)",
    "log(x)": "jnp.log(x)",
    "sin(x)": "jnp.sin(x)",
    "cos(x)": "jnp.cos(x)",
    "tanh(x)": "jnp.tanh(x)",
    "pow(x, a)": "jnp.power(x, a)",
    "clip(x, min_value, max_value)": "jnp.clip(x, min_value, max_value)",
    "maximum(x, y)": "jnp.maximum(x, y)",
    "minimum(x, y)": "jnp.minimum(x, y)",
    "equal(x, y)": "jnp.equal(x, y)",
    "not_equal(x, y)": "jnp.not_equal(x, y)",
    "greater(x, y)": "jnp.greater(x, y)",
    "greater_equal(x, y)": "jnp.greater_equal(x, y)",
    "less(x, y)": "jnp.less(x, y)",
    "less_equal(x, y)": "jnp.less_equal(x, y)",
    "switch(condition, then_expression, else_expression)": (
        "jnp.where(condition, then_expression, else_expression)  # of arrays whose ranks are equal"
    ),
    "in_train_phase(x, alt, training=None)": "x if training else alt  # say training yourself",
    "in_test_phase(x, alt, training=None)": "alt if training else x  # say training yourself",
    # Along axes
    "max(x, axis=None, keepdims=False)": "jnp.max(x, axis, keepdims=keepdims)",
    "min(x, axis=None, keepdims=False)": "jnp.min(x, axis, keepdims=keepdims)",
    "sum(x, axis=None, keepdims=False)": "jnp.sum(x, axis, keepdims=keepdims)",
    "prod(x, axis=None, keepdims=False)": "jnp.prod(x, axis, keepdims=keepdims)",
    "mean(x, axis=None, keepdims=False)": "jnp.mean(x, axis, keepdims=keepdims)",
    "var(x, axis=None, keepdims=False)": "jnp.var(x, axis, keepdims=keepdims)",
    "std(x, axis=None, keepdims=False)": "jnp.std(x, axis, keepdims=keepdims)",
    "any(x, axis=None, keepdims=False)": "jnp.any(x, axis, keepdims=keepdims)",
    "all(x, axis=None, keepdims=False)": "jnp.all(x, axis, keepdims=keepdims)",
    "logsumexp(x, axis=None, keepdims=False)": "jax.nn.logsumexp(x, axis, keepdims=keepdims)",
    "argmax(x, axis=-1)": "jnp.argmax(x, axis)",
    "argmin(x, axis=-1)": "jnp.argmin(x, axis)",
    "cumsum(x, axis=0)": "jnp.cumsum(x, axis)",
    "cumprod(x, axis=0)": "jnp.cumprod(x, axis)",
    "l2_normalize(x, axis=None)": "x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x**2, axis, keepdims=True), 1e-12))",
    "batch_normalization(x, mean, var, beta, gamma, axis=-1, epsilon=1e-3)": (
        "gamma * (x - mean) * jax.lax.rsqrt(var + epsilon) + beta  # axis=-1"
    ),
    "in_top_k(predictions, targets, k)": (
        "jnp.sum(predictions > jnp.take_along_axis(predictions, targets[:, None], 1), 1) < k"
    ),
    # Shapes, and which element stands where
    "reshape(x, shape)": "jnp.reshape(x, shape)",
    "transpose(x)": "jnp.transpose(x)",
    "permute_dimensions(x, pattern)": "jnp.transpose(x, pattern)",
    "expand_dims(x, axis=-1)": "jnp.expand_dims(x, axis)",
    "squeeze(x, axis)": "jnp.squeeze(x, axis)",
    "flatten(x)": "jnp.ravel(x)",
    "batch_flatten(x)": "jnp.reshape(x, (x.shape[0], -1))",
    "concatenate(tensors, axis=-1)": "jnp.concatenate(tensors, axis)",
    "stack(x, axis=0)": "jnp.stack(x, axis)",
    "repeat(x, n)": "jnp.repeat(x[:, None], n, axis=1)",
    "repeat_elements(x, rep, axis)": "jnp.repeat(x, rep, axis)",
    "tile(x, n)": "jnp.tile(x, n)",
    "reverse(x, axes)": "jnp.flip(x, axes)",
    "slice(x, start, size)": "jax.lax.dynamic_slice(x, start, size)  # a size of -1 must be written out",
    "gather(reference, indices)": "jnp.take(reference, indices, axis=0)  # beyond the end: nan",
    "one_hot(indices, num_classes)": "jax.nn.one_hot(indices, num_classes)",
    "temporal_padding(x, padding=(1, 1))": "jnp.pad(x, ((0, 0), padding, (0, 0)))",
    "spatial_2d_padding(x, padding=((1, 1), (1, 1)))": "jnp.pad(x, ((0, 0), *padding, (0, 0)))",
    "spatial_3d_padding(x, padding=((1, 1), (1, 1), (1, 1)))": "jnp.pad(x, ((0, 0), *padding, (0, 0)))",
    "resize_images(x, height_factor, width_factor)": "x.repeat(height_factor, 1).repeat(width_factor, 2)",
    "resize_volumes(x, depth_factor, height_factor, width_factor)": (
        "x.repeat(depth_factor, 1).repeat(height_factor, 2).repeat(width_factor, 3)"
    ),
    # Layers
    "bias_add(x, bias)": "x + bias",
    "relu(x, alpha=0.0, max_value=None, threshold=0.0)": (
        "jnp.clip(jnp.where(x > threshold, x, alpha * (x - threshold)), None, max_value)  # else jax.nn.relu(x)"
    ),
    "elu(x, alpha=1.0)": "jax.nn.elu(x, alpha)",
    "softmax(x, axis=-1)": "jax.nn.softmax(x, axis)",
    "softplus(x)": "jax.nn.softplus(x)",
    "softsign(x)": "jax.nn.soft_sign(x)",
    "sigmoid(x)": "jax.nn.sigmoid(x)",
    "hard_sigmoid(x)": "jnp.clip(0.2 * x + 0.5, 0, 1)  # jax.nn.hard_sigmoid is another function",
    "categorical_crossentropy(target, output, from_logits=False, axis=-1)": (
        "-jnp.sum(target * (jax.nn.log_softmax(output, axis) if from_logits else "
        "jnp.log(jnp.clip(output / jnp.sum(output, axis, keepdims=True), 1e-7, 1 - 1e-7))), axis)"
    ),
    "sparse_categorical_crossentropy(target, output, from_logits=False)": (
        "-jnp.take_along_axis(jax.nn.log_softmax(output if from_logits else "
        "jnp.log(jnp.clip(output, 1e-7, 1 - 1e-7))), target[:, None], 1)[:, 0]  # of matrices"
    ),
    "conv1d(x, kernel, strides=1, padding='valid', dilation_rate=1)": (
        "jax.lax.conv_general_dilated(x, kernel, (strides,), padding.upper(), rhs_dilation=(dilation_rate,), "
        "dimension_numbers=('NWC', 'WIO', 'NWC'))"
    ),
    "conv2d(x, kernel, strides=(1, 1), padding='valid', dilation_rate=(1, 1))": (
        "jax.lax.conv_general_dilated(x, kernel, strides, padding.upper(), rhs_dilation=dilation_rate, "
        "dimension_numbers=('NHWC', 'HWIO', 'NHWC'))"
    ),
    "conv3d(x, kernel, strides=(1, 1, 1), padding='valid', dilation_rate=(1, 1, 1))": (
        "jax.lax.conv_general_dilated(x, kernel, strides, padding.upper(), rhs_dilation=dilation_rate, "
        "dimension_numbers=('NDHWC', 'DHWIO', 'NDHWC'))"
    ),
    "depthwise_conv2d(x, depthwise_kernel, strides=(1, 1), padding='valid', dilation_rate=(1, 1))": (
        "jax.lax.conv_general_dilated(x, depthwise_kernel.reshape(*depthwise_kernel.shape[:2], 1, -1), strides, "
        "padding.upper(), rhs_dilation=dilation_rate, dimension_numbers=('NHWC', 'HWIO', 'NHWC'), "
        "feature_group_count=x.shape[-1])"
    ),
    "pool2d(x, pool_size, strides=(1, 1), padding='valid')": (
        "jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, *pool_size, 1), (1, *strides, 1), padding.upper())  # max"
    ),
    "pool3d(x, pool_size, strides=(1, 1, 1), padding='valid')": (
        "jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, *pool_size, 1), (1, *strides, 1), padding.upper())  # max"
    ),
    # Functions of functions
    "map_fn(fn, elems)": "jax.lax.map(fn, elems)",
    "foldl(fn, elems, initializer)": "jax.lax.scan(lambda out, x: (fn(out, x), None), initializer, elems)[0]",
    "foldr(fn, elems, initializer)": (
        "jax.lax.scan(lambda out, x: (fn(out, x), None), initializer, elems, reverse=True)[0]"
    ),
    "function(inputs, outputs)": "jax.jit(outputs)  # a function of inputs",
    "name_scope(name)": "jax.named_scope(name)",
    "print_tensor(x, message='')": "jax.debug.print(message + ' {}', x)",
    "stop_gradient(variables)": "jax.lax.stop_gradient(variables)",
    "gradients(loss, variables)": "jax.grad(loss)(variables)  # loss: a function of variables",
    # Of chance: key is a jax.random.key(seed), a new one for each call
    "random_normal(shape, mean=0.0, stddev=1.0)": "mean + stddev * jax.random.normal(key, shape)",
    "random_normal_variable(shape, mean, scale)": "mean + scale * jax.random.normal(key, shape)",
    "truncated_normal(shape, mean=0.0, stddev=1.0)": "mean + stddev * jax.random.truncated_normal(key, -2, 2, shape)",
    "random_uniform(shape, minval=0.0, maxval=1.0)": ("jax.random.uniform(key, shape, minval=minval, maxval=maxval)"),
    "random_uniform_variable(shape, low, high)": "jax.random.uniform(key, shape, minval=low, maxval=high)",
    "random_binomial(shape, p=0.0)": "jax.random.bernoulli(key, p, shape).astype('float32')",
    "random_bernoulli(shape, p=0.0)": "jax.random.bernoulli(key, p, shape).astype('float32')",
    "dropout(x, level)": "jnp.where(jax.random.bernoulli(key, 1 - level, x.shape), x / (1 - level), 0)",
}

# The one of them whose values changed: what is added to the probabilities.
UP_TO_2_2_4: Final[dict[str, str]] = {
    "binary_crossentropy(target, output, from_logits=False)": (
        "jax.nn.softplus(output) - target * output if from_logits else "
        "-(target * jnp.log(p := jnp.clip(output, 1e-7, 1 - 1e-7)) + (1 - target) * jnp.log1p(-p))"
    ),
}
SINCE_2_2_5: Final[dict[str, str]] = {
    "binary_crossentropy(target, output, from_logits=False)": (
        "jax.nn.softplus(output) - target * output if from_logits else "
        "-(target * jnp.log((p := jnp.clip(output, 1e-7, 1 - 1e-7)) + 1e-7) + (1 - target) * jnp.log(1 - p + 1e-7))"
    ),
}
