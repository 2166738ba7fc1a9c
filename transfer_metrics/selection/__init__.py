"""Which layers, and which of their features, to transfer: scikit-learn selectors over layers.

One path: ``read_labelled`` makes ``LayerColumns`` of arrays, stores and layers; a selector's
``fit`` chooses among them; what it has chosen is a ``Selection``, which transforms and is a file.
"""
