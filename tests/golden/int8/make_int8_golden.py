#!/usr/bin/env python3
"""int8 arithmetic by ONNX Runtime: QuantizeLinear per channel of the weights and per row of the
activations, MatMulInteger, and the two scales. Needs numpy, onnx, onnxruntime and safetensors.

    python make_int8_golden.py        writes expected.safetensors beside this file
"""
import pathlib

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from safetensors.numpy import save_file

CASES = [(1, 1, 1), (3, 5, 7), (4, 64, 64), (2, 33, 130), (5, 40, 257)]  # tokens, rows, cols


def quantize(values, scales):
    """Rows to int8 with a scale each."""
    graph = helper.make_graph(
        [helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], axis=0)], "quantize",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, None]),
         helper.make_tensor_value_info("scale", TensorProto.FLOAT, [None]),
         helper.make_tensor_value_info("zero", TensorProto.INT8, [None])],
        [helper.make_tensor_value_info("q", TensorProto.INT8, [None, None])])
    return run(graph, {"x": values, "scale": scales, "zero": np.zeros(len(scales), np.int8)})


def matmul(a, b):
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["y"])], "matmul",
        [helper.make_tensor_value_info("a", TensorProto.INT8, [None, None]),
         helper.make_tensor_value_info("b", TensorProto.INT8, [None, None])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [None, None])])
    return run(graph, {"a": a, "b": b})


def run(graph, inputs):
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


def main():
    random = np.random.default_rng(20)
    tensors = {}
    for number, (tokens, rows, cols) in enumerate(CASES):
        x = random.standard_normal((tokens, cols)).astype(np.float32)
        w = (0.05 * random.standard_normal((rows, cols))).astype(np.float32)
        x[:, 0] *= 20  # a channel that stands out
        x_scale, w_scale = (np.abs(v).max(axis=1) / np.float32(127) for v in (x, w))
        xq, wq = quantize(x, x_scale), quantize(w, w_scale)
        sums = matmul(xq, np.ascontiguousarray(wq.T))
        y = sums.astype(np.float64) * x_scale.astype(np.float64)[:, None] * w_scale.astype(np.float64)
        tensors |= {f"{number}.x": x, f"{number}.w": w, f"{number}.w_scale": w_scale,
                    f"{number}.wq": wq.astype(np.float32), f"{number}.y": y.astype(np.float32)}
    save_file(tensors, pathlib.Path(__file__).with_name("expected.safetensors"),
              {"made_with": f"onnxruntime {onnxruntime.__version__}, numpy {np.__version__}"})


if __name__ == "__main__":
    main()
