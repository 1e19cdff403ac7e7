"""Measures ONNX Runtime on a random Llama, as its own exporters lay it out: the fused operators
GroupQueryAttention (rotary embedding and cache included) and SkipSimplifiedLayerNormalization; in f32,
or with quantize_dynamic's int8 matrices. Needs onnxruntime, onnx and numpy.

  run_onnx.py --shape bench/shapes/llama-110m.json --work DIR --weights i8 --threads 2

DIR keeps the models. Keys and values stay in one buffer for input and output, so that none is copied.
"""
import os

from samples import arguments, measure, read_config, seconds_of, shape_name

PARSER = arguments(__doc__, ["f32", "i8"])
PARSER.add_argument("--work", required=True)
OPTIONS = PARSER.parse_args()

import numpy as np  # noqa: E402
import onnx  # noqa: E402
import onnxruntime  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

F32, I64, I32 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32
CONTEXT = 2048  # positions that a cache holds


class Graph:
    """Nodes and weights of a decoder under construction; every method returns its output's name."""

    def __init__(self, config):
        self.c, self.nodes, self.weights = config, [], []
        self.random = np.random.default_rng(1)

    def constant(self, name, values):
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def matmul(self, x, name, rows, columns):
        weights = self.random.standard_normal((rows, columns), dtype=np.float32) * np.float32(0.02)
        return self.node("MatMul", [x, self.constant(name + ".weight", weights)], name)

    def node(self, operator, inputs, output, domain="", extra=(), **attributes):
        self.nodes.append(helper.make_node(operator, inputs, [output, *extra], name=output,
                                           domain=domain, **attributes))
        return output

    def norm(self, name, x, residual=None):
        """The norm of x, or of x + residual; then that sum as well."""
        scale = self.constant(name + ".weight", np.ones(self.c["hidden_size"], np.float32))
        epsilon = self.c["rms_norm_eps"]
        if residual is None:
            return self.node("SimplifiedLayerNormalization", [x, scale], name, epsilon=epsilon,
                             axis=-1), x
        self.node("SkipSimplifiedLayerNormalization", [x, residual, scale], name, "com.microsoft",
                  ("", "", name + ".sum"), epsilon=epsilon)
        return name, name + ".sum"


def build(config, path):
    c, g = config, Graph(config)
    model, ffn, vocab = c["hidden_size"], c["intermediate_size"], c["vocab_size"]
    heads, kv_heads = c["num_attention_heads"], c["num_key_value_heads"]
    head = model // heads
    angle = np.outer(np.arange(CONTEXT), c["rope_theta"] ** (-np.arange(0, head, 2) / head))
    g.constant("cos", np.cos(angle).astype(np.float32))
    g.constant("sin", np.sin(angle).astype(np.float32))
    table = g.random.standard_normal((vocab, model), dtype=np.float32) * np.float32(0.02)
    x = g.node("Gather", [g.constant("embedding", table), "ids"], "x")
    residual, caches = None, []
    for i in range(c["num_hidden_layers"]):
        p = f"layer{i}."
        normed, x = g.norm(p + "norm1", x, residual)
        q = g.matmul(normed, p + "q", model, model)
        k = g.matmul(normed, p + "k", model, kv_heads * head)
        v = g.matmul(normed, p + "v", model, kv_heads * head)
        caches += [f"{i}.k", f"{i}.v"]
        attended = g.node("GroupQueryAttention",
                          [q, k, v, f"past.{i}.k", f"past.{i}.v", "last", "total", "cos", "sin"],
                          p + "attention", "com.microsoft", (f"new.{i}.k", f"new.{i}.v"),
                          num_heads=heads, kv_num_heads=kv_heads, do_rotary=1)
        residual = g.matmul(attended, p + "o", model, model)
        normed, x = g.norm(p + "norm2", x, residual)
        gate = g.matmul(normed, p + "gate", model, ffn)
        up = g.matmul(normed, p + "up", model, ffn)
        silu = g.node("Mul", [gate, g.node("Sigmoid", [gate], p + "sigmoid")], p + "silu")
        residual = g.matmul(g.node("Mul", [silu, up], p + "gated"), p + "down", ffn, model)
    normed, _ = g.norm("norm", x, residual)
    g.constant("minus_one", np.array([-1], np.int64))
    last = g.node("Gather", [normed, "minus_one"], "last_token", axis=1)
    g.matmul(last, "logits", model, vocab)
    cache_shape = ["b", kv_heads, CONTEXT, head]
    inputs = [helper.make_tensor_value_info("ids", I64, ["b", "n"]),
              helper.make_tensor_value_info("last", I32, ["b"]),
              helper.make_tensor_value_info("total", I32, [1])]
    inputs += [helper.make_tensor_value_info("past." + n, F32, cache_shape) for n in caches]
    outputs = [helper.make_tensor_value_info("logits", F32, ["b", 1, vocab])]
    outputs += [helper.make_tensor_value_info("new." + n, F32, cache_shape) for n in caches]
    graph = helper.make_graph(g.nodes, "llama", inputs, outputs, g.weights)
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[
        helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]), path)


def model_file(config):
    base = os.path.join(OPTIONS.work, shape_name(OPTIONS.shape))
    os.makedirs(OPTIONS.work, exist_ok=True)
    path = f"{base}-{OPTIONS.weights}.onnx"
    if not os.path.exists(path):
        if not os.path.exists(f"{base}-f32.onnx"):
            build(config, f"{base}-f32.onnx")
        if OPTIONS.weights == "i8":
            from onnxruntime.quantization import QuantType, quantize_dynamic
            quantize_dynamic(f"{base}-f32.onnx", path, op_types_to_quantize=["MatMul"],
                             per_channel=True, weight_type=QuantType.QInt8,
                             extra_options={"DefaultTensorType": F32})
    return path


def main():
    config = read_config(OPTIONS.shape)
    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = OPTIONS.threads
    session_options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model_file(config), session_options,
                                           providers=["CPUExecutionProvider"])
    head = config["hidden_size"] // config["num_attention_heads"]
    names = [f"{i}.{kv}" for i in range(config["num_hidden_layers"]) for kv in "kv"]
    shape = (1, config["num_key_value_heads"], CONTEXT, head)
    memory = [np.zeros(shape, np.float32) for _ in names]  # used in place: each its own
    caches = [(name, onnxruntime.OrtValue.ortvalue_from_numpy(values))
              for name, values in zip(names, memory)]
    prompt = np.random.default_rng(2).integers(
        3, config["vocab_size"], (1, OPTIONS.prompt_tokens), dtype=np.int64)

    def step(ids, position):
        """Runs ids at positions from `position` on; the likeliest next token."""
        end = position + ids.shape[1]
        binding = session.io_binding()
        inputs = {"ids": ids, "last": np.array([end - 1], np.int32),
                  "total": np.array([end], np.int32)}  # outlive the run, which reads them in place
        for name, values in inputs.items():
            binding.bind_cpu_input(name, values)
        binding.bind_output("logits")
        for name, value in caches:
            binding.bind_ortvalue_input("past." + name, value)
            binding.bind_ortvalue_output("new." + name, value)
        session.run_with_iobinding(binding)
        return binding.get_outputs()[0].numpy().argmax()

    def decode():
        token = 3
        for i in range(OPTIONS.gen_tokens):
            token = step(np.array([[token]], np.int64), OPTIONS.prompt_tokens + i)

    measure("onnxruntime", onnxruntime.__version__, OPTIONS,
            lambda: seconds_of(lambda: step(prompt, 0)), lambda: seconds_of(decode))


if __name__ == "__main__":
    main()
