"""Golden cases: small inputs, weights and outputs of the reference implementations, compared with ours.

A case is a folder with `case.json` (configuration, prompts, how the outputs were made, and how far each
moves when the weights are disturbed by 1e-6), `weights.safetensors` (random weights under the reference's
keys) and `io.safetensors` (inputs and outputs). `cases/` holds those that the suite runs; `python -m
tests.golden FOLDER ...` runs any others. `layouts/` lists the keys and shapes of the released
checkpoints.

A family plugs in with one file: a module with `outputs(case) -> dict[str, Tensor]` and a row in
`case.FAMILIES`.
"""
