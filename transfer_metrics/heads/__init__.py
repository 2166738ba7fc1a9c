"""What is trained on the chosen layers, and the check against fine-tuning.

One path: arrays, stores and layers (``read_labelled``), or a model and a task (``TaskData``),
become ``FeatureData``, whose ``Answers`` say what is predicted; a head's ``fit`` sets weights;
``Predictor`` answers with them, ``head_files`` keeps them, and ``Exported`` is a file without this
package. ``FineTune`` starts from such a head, a probe or nothing, and ``Training`` goes on from its
``Checkpoint``. ``Fits`` measures heads; ``compare`` and ``transfer`` say which.
"""
