"""Which layers, and which of their features, to transfer: scikit-learn selectors over layers."""
