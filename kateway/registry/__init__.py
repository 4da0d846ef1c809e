"""Applications, keys, topics and bindings: the contract and its drivers."""
