"""The values that flow, the protocols of what can be exchanged, and the errors."""
