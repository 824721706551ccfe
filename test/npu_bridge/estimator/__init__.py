"""Estimator mode of the stand-in: npu_bridge.estimator.npu and npu_ops."""
