"""Backbones, the fixed quantised features that the memory learns on, and the saved bundle: one ONNX file.

- `backbone`: `load_backbone("patches")` and the other specs.
- `basis`: `Basis(backbone)`, images -> phi, integers in [-127, 127].
- `bundle`: basis and head in one ONNX file, and `OnnxModel`, which serves such a file.
"""
