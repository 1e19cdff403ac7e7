#!/usr/bin/env python3
"""Writes scores.onnx: scores = rows . W + b, rows [n, 4], W[i][j] = i - j, b[j] = j. Needs the onnx package."""
import pathlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

weights = np.array([[i - j for j in range(3)] for i in range(4)], dtype=np.float32)
bias = np.arange(3, dtype=np.float32)
graph = helper.make_graph(
    [helper.make_node("Gemm", ["rows", "W", "b"], ["scores"])], "scores",
    [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["n", 4])],
    [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])],
    [numpy_helper.from_array(weights, "W"), numpy_helper.from_array(bias, "b")])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8, producer_name="")
onnx.checker.check_model(model)
(pathlib.Path(__file__).parent / "scores.onnx").write_bytes(model.SerializeToString())
