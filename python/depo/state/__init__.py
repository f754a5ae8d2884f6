"""States on disk: nested values as JSON and safetensors, checkpoints."""
